"""How bytes and speed change as live sessions grow in number: the server's core in this process, so that opening a
million sessions measures sessions and not a million calls.
"""

import asyncio
import gc
import os
import time
from dataclasses import dataclass
from pathlib import Path

from bench.report import percentile, print_figure
from prometheus_client import CollectorRegistry

from carousel.app import make_lives
from carousel.bundle.manifest import Bundle
from carousel.engine.engine import Engine
from carousel.engine.model import OnnxModel
from carousel.engine.scheduler import Bounds
from carousel.metrics import Metrics
from carousel.sessions.checks import Limits
from carousel.sessions.lives import Lives
from carousel.sessions.requests import Caller, PredictionRequest
from carousel.sessions.seats import Seats
from carousel.sessions.service import Sessions
from carousel.settings import Settings
from carousel.state.memory import Capacity, MemoryStore

NUM_ACTIVE = 64
NUM_ROUNDS = 100
FEW = 1_000


def measure_growth(bundle_directory: Path, most: int) -> None:
    """At 1,000, 10,000 ... sessions: bytes of each over its raw state, microseconds to open one, to step 64 of them."""
    asyncio.run(_grow(Bundle.load(bundle_directory), most))


async def _grow(bundle: Bundle, most: int) -> None:
    metrics = Metrics(CollectorRegistry())
    engine = Engine(OnnxModel(bundle), bundle.manifest.start_id, Bounds(), metrics)
    await engine.start()
    few, growing = (_make_world(bundle, engine, metrics, 2 * most) for _ in range(2))
    await _open_until(FEW, 0, few.lives, engine)
    raw_bytes = bundle.manifest.state.num_bytes
    count, size, base = 0, FEW, _resident_bytes()
    while size <= most:
        count, opened = await _open_until(size, count, growing.lives, engine)
        step, over_few = await _compare_steps(growing, count, few)
        each = (_resident_bytes() - base) / count
        print_figure(f"sessions.{size}.open_microseconds", 1e6 * opened, "us")
        print_figure(f"sessions.{size}.step64_p50", 1e3 * step, "ms")
        print_figure(f"sessions.{size}.step_over_1000", over_few, "ratio")
        print_figure(f"sessions.{size}.bytes", each, "bytes")
        size *= 10
    print_figure("sessions.bytes_over_state", each / raw_bytes, "ratio", at_most=1.3 + 300 / raw_bytes)
    print_figure("sessions.step_over_few", over_few, "ratio", at_most=1.1)
    await engine.stop()


@dataclass(frozen=True, slots=True)
class World:
    """Sessions in a memory of their own, on an engine that others use too."""

    lives: Lives
    sessions: Sessions


def _make_world(bundle: Bundle, engine: Engine, metrics: Metrics, max_sessions: int) -> World:
    settings = Settings(max_sessions=max_sessions)
    store = MemoryStore(Capacity(settings.max_sessions, 2**45, evicts=False))
    lives = make_lives(settings, bundle, store, metrics)
    seats = Seats(engine, bundle.tokenizer, lives, settings.seal_seconds)
    limits = Limits(settings.max_input_tokens, settings.max_generated_tokens)
    return World(lives, Sessions(bundle.manifest, bundle.tokenizer, engine, seats, limits, metrics))


async def _open_until(size: int, count: int, lives: Lives, engine: Engine) -> tuple[int, float]:
    """How many there are now, and the seconds that opening the median one took. Each has a state of its own."""
    snapshot = lives.codec.encode(engine.start_snapshot)
    seconds = []
    for number in range(count, size):
        own = bytes(bytearray(snapshot))  # as a turn leaves it: shared with nobody
        started = time.perf_counter()
        await lives.create("", f"s{number}", own)
        seconds.append(time.perf_counter() - started)
    return size, percentile(seconds, 0.5)


async def _compare_steps(many: World, count: int, few: World) -> tuple[float, float]:
    """Median seconds of a round among many sessions, and over one among a thousand; in turn, so that a drift of the
    machine meets both alike."""
    seconds: dict[int, list[float]] = {count: [], -1: []}
    for number in range(NUM_ROUNDS):
        seconds[count].append(await _step(many.sessions, count, number))
        seconds[-1].append(await _step(few.sessions, FEW, number))
    median = percentile(seconds[count], 0.5)
    return median, median / percentile(seconds[-1], 0.5)


async def _step(sessions: Sessions, count: int, round_number: int) -> float:
    """Seconds of a round in which 64 sessions, spread over all, each take a Predict turn of one token."""
    ids = [f"s{(number * count // NUM_ACTIVE + round_number) % count}" for number in range(NUM_ACTIVE)]
    request = PredictionRequest(input=(5,))
    started = time.perf_counter()
    await asyncio.gather(*(sessions.predict(Caller("", session_id), request) for session_id in ids))
    return time.perf_counter() - started


def _resident_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
