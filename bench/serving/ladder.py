"""Where the time of a prediction goes: from a bare echo up to our server, a layer more on each rung, in one run.

    python -m bench.serving.ladder [--quick]

64 sequences of the small model, a token in, ten candidates out. Each rung has four lines: its share of the echo's
messages, messages per second, and what a message costs client and server of processor time, in microseconds. The client
is the same for all that have the same wire; it shares the cores with the server. Rungs take turns in every round.

`echo` and, above it, `messages`, `pieces` and `columns` are `echo_server.py` and `ladder_server.py` of the harness. The
others are our server: `carried` has streams that carry the state, `held` streams on sessions, `many_on_N` all sessions
on N PredictMany streams, `1000_on_2` more of them; with `sqlite` and `redis` every turn is written before it is
answered.
"""

import argparse
import contextlib
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.harness.child_process import find_program, running_redis
from bench.harness.echo_server import echo_process
from bench.harness.ladder_server import ladder_server
from bench.harness.load import (
    MANY_SESSIONS,
    NUM_SESSIONS,
    WARM_UP_MESSAGES,
    Load,
    per_second,
    processor_seconds,
    put_load,
)
from bench.harness.reference_models import write_reference_bundle
from bench.harness.report import print_figure, print_machine
from bench.harness.server_process import serve

_FLOOR = "echo"


@dataclass(frozen=True, slots=True)
class Rung:
    """A server and what the client does with it."""

    name: str
    address: str
    process_id: int
    load: Load


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one round: messages per second, and processor microseconds of a message."""

    speed: float
    client_us: float
    server_us: float


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="once instead of three times, and less of it")
    given = parser.parse_args(arguments)
    print_machine()
    with tempfile.TemporaryDirectory() as name:
        bundle = write_reference_bundle("small", Path(name), "float32")
        measure_ladder(bundle, Path(name), *((1, 300) if given.quick else (3, 1000)))


def measure_ladder(
    bundle: Path, directory: Path, num_rounds: int, num_messages: int, num_many: int = MANY_SESSIONS
) -> None:
    """`num_messages` of each of 64 sequences, as many altogether of `num_many`, half of it where turns are written."""
    load = Load("predict", NUM_SESSIONS, 1, num_messages)
    costs = defaultdict[str, list[Cost]](list)
    with contextlib.ExitStack() as stack:
        rungs = [
            *_below(stack, bundle, load),
            *_in_memory(stack, bundle, load, num_many),
            *_written(stack, bundle, directory, load),
        ]
        for _ in range(num_rounds):
            for rung in rungs:
                costs[rung.name].append(measure(rung))
    for name, rounds in costs.items():
        print_rung(name, rounds, costs[_FLOOR])


def measure(rung: Rung) -> Cost:
    before = processor_seconds(rung.process_id)
    found = put_load(rung.address, rung.load)
    server_seconds = processor_seconds(rung.process_id) - before
    num_counted = rung.load.num_streams * rung.load.num_tokens
    num_all = rung.load.num_streams * (rung.load.num_tokens + WARM_UP_MESSAGES)
    return Cost(
        per_second(found["seconds"]),
        1e6 * found["client_seconds"] / num_counted,
        1e6 * server_seconds / num_all,
    )


def _below(stack: contextlib.ExitStack, bundle: Path, load: Load) -> Iterator[Rung]:
    """What is not our server."""
    address, process_id = stack.enter_context(ladder_server("messages", bundle))
    probe = put_load(address, replace(load, num_streams=1, num_tokens=2))
    echo = replace(load, kind="echo", response_bytes=probe["response_bytes"])
    yield Rung(_FLOOR, *stack.enter_context(echo_process()), echo)
    yield Rung("messages", address, process_id, load)
    for name in ("pieces", "columns"):
        yield Rung(name, *stack.enter_context(ladder_server(name, bundle)), load)


def _in_memory(stack: contextlib.ExitStack, bundle: Path, load: Load, num_many: int) -> Iterator[Rung]:
    """Ours: streams that carry the state, streams on sessions, sequences on a few streams."""
    server = stack.enter_context(serve(bundle, "--threads", "1"))
    at = (server.grpc_address, server.process.pid)
    yield Rung("carried", *at, replace(load, has_session=False))
    yield Rung("held", *at, load)
    for num_streams in (1, 2, 8):
        yield Rung(f"many_on_{num_streams}", *at, replace(load, kind="many", num_shared_streams=num_streams))
    num_each = load.num_tokens * load.num_streams // num_many
    yield Rung(f"{num_many}_on_2", *at, replace(load, kind="many", num_streams=num_many, num_tokens=num_each))


def _written(stack: contextlib.ExitStack, bundle: Path, directory: Path, load: Load) -> Iterator[Rung]:
    """Ours where every turn is written before it is answered; the store's own process is not counted."""
    stores = {"sqlite": f"sqlite:{directory / 'sessions.db'}"}
    if find_program("redis-server"):
        stores["redis"] = stack.enter_context(running_redis(directory))
    for name, store in stores.items():
        server = stack.enter_context(serve(bundle, "--threads", "1", "--set", f"store={store}"))
        yield Rung(
            name, server.grpc_address, server.process.pid, replace(load, num_tokens=max(1, load.num_tokens // 2))
        )


def print_rung(name: str, rounds: list[Cost], floors: list[Cost]) -> None:
    shares = [one.speed / floor.speed for one, floor in zip(rounds, floors, strict=True)]
    print_figure(f"ladder.{name}", statistics.median(shares), "ratio")
    print_figure(f"ladder.{name}.messages", statistics.median(one.speed for one in rounds), "messages/s")
    print_figure(f"ladder.{name}.client", statistics.median(one.client_us for one in rounds), "us")
    print_figure(f"ladder.{name}.server", statistics.median(one.server_us for one in rounds), "us")


if __name__ == "__main__":
    main()
