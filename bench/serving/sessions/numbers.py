"""How bytes and speed change as live sessions grow in number: the server's core in this process, so that opening a
million sessions measures sessions and not a million calls.

    python -m bench.serving.sessions.numbers [--most 1000000] [--quick]

Two worlds on one engine, one of which stays at a thousand sessions. They take turns, so that a drift of the machine
meets both alike.
"""

import argparse
import asyncio
import gc
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop
from bench.harness.memory import resident_bytes
from bench.harness.reference_models import write_reference_bundle
from bench.harness.report import percentile, print_figure, print_machine
from prometheus_client import CollectorRegistry

from carousel.bundle.manifest import Bundle
from carousel.engine.engine import Engine
from carousel.engine.model import OnnxModel
from carousel.engine.scheduler import Bounds
from carousel.metrics import Metrics
from carousel.sessions.composition import SessionService, make_sessions
from carousel.sessions.requests import Caller, GenerationRequest, PredictionRequest
from carousel.settings import Settings
from carousel.state.memory import MemoryStore
from carousel.state.store import Capacity, Lifetimes
from carousel.turns import SamplingOptions

NUM_ACTIVE = 64
NUM_ROUNDS = 100  # of predictions; a fifth as many of generations
NUM_TOKENS = 32
FEW, MILLION = 1_000, 1_000_000


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=MILLION, help="sessions of the largest figure")
    parser.add_argument("--quick", action="store_true", help="ten thousand sessions at most, and fewer rounds")
    given = parser.parse_args(arguments)
    print_machine()
    with tempfile.TemporaryDirectory() as directory:
        bundle = write_reference_bundle("small", Path(directory))
        if given.quick:
            measure_growth(bundle, min(given.most, 10 * FEW), NUM_ROUNDS // 5)
        else:
            measure_growth(bundle, given.most)


def measure_growth(bundle_directory: Path, most: int, num_rounds: int = NUM_ROUNDS) -> None:
    """At 1,000, 10,000 ... sessions: bytes of each over its raw state, microseconds to open one, the speed of 64."""
    uvloop.run(_grow(Bundle.load(bundle_directory), most, num_rounds))


async def _grow(bundle: Bundle, most: int, num_rounds: int) -> None:
    metrics = Metrics(CollectorRegistry())
    engine = Engine(OnnxModel(bundle), bundle.manifest.start_id, Bounds.of(Settings()), metrics)
    await engine.start()
    gc.freeze()  # as `carousel serve` does when it is ready
    few, many = (_make_world(bundle, engine, metrics, 2 * most) for _ in range(2))
    await _open_until(FEW, few, engine)
    num_bytes, size = 0, FEW
    while size <= most:
        before = resident_bytes()
        opened_seconds = await _open_until(size, many, engine)
        collection_seconds = _collect()
        num_bytes += resident_bytes() - before
        found = await _compare(many, few, num_rounds)
        print_figure(f"sessions.{size}.open_microseconds", 1e6 * opened_seconds, "us")
        print_figure(f"sessions.{size}.bytes", num_bytes / size, "bytes")
        print_figure(f"sessions.{size}.full_collection", 1e3 * collection_seconds, "ms")
        print_figure(f"sessions.{size}.predict64_p50", 1e3 * found.predict_seconds, "ms")
        print_figure(f"sessions.{size}.generate64", found.tokens_per_second, "tokens/s")
        of_few = found.tokens_per_second / found.throughput  # meanwhile, in the same process
        print_figure(f"sessions.{size}.generate64_of_1000", of_few, "tokens/s")
        size *= 10
    _print_targets(size // 10, found, num_bytes * 10 / size / bundle.manifest.state.num_bytes, bundle)
    await engine.stop()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Many sessions over a thousand: 64 of them, spread over all."""

    predict_seconds: float  # of a round in which each takes a turn of one token
    tokens_per_second: float
    latency: float  # of the round, over the thousand's
    throughput: float  # of generations, over the thousand's


def _print_targets(size: int, found: Comparison, bytes_over_state: float, bundle: Bundle) -> None:
    name = f"sessions.{'million' if size == MILLION else size}"
    at_most = 1.3 + 300 / bundle.manifest.state.num_bytes
    print_figure(f"{name}.throughput", found.throughput, "ratio", at_least=0.9)
    print_figure(f"{name}.latency", found.latency, "ratio", at_most=1.1)
    print_figure(f"{name}.bytes_over_state", bytes_over_state, "ratio", at_most=at_most)


@dataclass(slots=True)
class World:
    """Sessions in a memory of their own, on an engine that others use too."""

    service: SessionService
    num_sessions: int = 0


def _make_world(bundle: Bundle, engine: Engine, metrics: Metrics, max_sessions: int) -> World:
    settings = Settings(max_sessions=max_sessions)
    lifetimes = Lifetimes(settings.session_idle_seconds, settings.session_lifetime_seconds)
    store = MemoryStore(Capacity(settings.max_sessions, 2**45, evicts=False), lifetimes)
    return World(make_sessions(settings, bundle.manifest, bundle.tokenizer, engine, store, metrics))


async def _open_until(size: int, world: World, engine: Engine) -> float:
    """The seconds that opening the median one took. Each has a state of its own."""
    snapshot = world.service.codec.encode(engine.start_snapshot)
    seconds = []
    for number in range(world.num_sessions, size):
        own = bytes(bytearray(snapshot))  # as a turn leaves it: shared with nobody
        started = time.perf_counter()
        await world.service.operations.create("", f"s{number}", own)
        seconds.append(time.perf_counter() - started)
    world.num_sessions = size
    return percentile(seconds, 0.5)


async def _compare(many: World, few: World, num_rounds: int) -> Comparison:
    predictions = [(await _predict(many, n), await _predict(few, n)) for n in range(num_rounds)]
    generations = [(await _generate(many, n), await _generate(few, n)) for n in range(num_rounds // 5)]
    among_many, among_few = (percentile(list(seconds), 0.5) for seconds in zip(*predictions, strict=True))
    speed, speed_of_few = (NUM_ACTIVE * NUM_TOKENS / statistics.mean(s) for s in zip(*generations, strict=True))
    return Comparison(among_many, speed, among_many / among_few, speed / speed_of_few)


async def _predict(world: World, round_number: int) -> float:
    """Seconds of a round in which 64 sessions each take a Predict turn of one token."""
    request = PredictionRequest(input=(5,))
    started = time.perf_counter()
    await asyncio.gather(*(world.service.turns.predict(caller, request) for caller in _choose(world, round_number)))
    return time.perf_counter() - started


async def _generate(world: World, round_number: int) -> float:
    """Seconds in which 64 sessions each generate."""
    request = GenerationRequest(input=(5,), max_tokens=NUM_TOKENS, sampling=SamplingOptions(temperature=0))

    async def stream(caller: Caller) -> None:
        async for _ in world.service.turns.generate(caller, request):
            pass

    started = time.perf_counter()
    await asyncio.gather(*map(stream, _choose(world, round_number)))
    return time.perf_counter() - started


def _choose(world: World, round_number: int) -> list[Caller]:
    """64 sessions, others in each round."""
    count = world.num_sessions
    numbers = ((number * count // NUM_ACTIVE + round_number) % count for number in range(NUM_ACTIVE))
    return [Caller("", f"s{number}") for number in numbers]


def _collect() -> float:
    """Seconds that a collection takes which walks everything, while nothing else runs."""
    gc.collect()
    started = time.perf_counter()
    gc.collect()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
