"""A mixed load for half an hour: the servers' resources must not grow with the number of turns."""

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness.reference_models import SIZES, write_reference_bundle
from bench.harness.report import print_figure, print_machine
from bench.harness.server_process import ServerProcess
from trials.plans import draw_seed
from trials.process_samples import Samples, sample_for_ever
from trials.slopes import after_first_quarter, fit_slope
from trials.soak_load import Load
from trials.soak_servers import STORES, SoakServers, program_of
from trials.vanishing_peers import be_silent_again_and_again, vanish_again_and_again

MAX_BYTES_PER_TURN = 20.0
_CLIENTS_PER_SERVER = 12
_NUM_RECORDS = 5_500  # makes 11,000 deeds: more than a server remembers of one owner


@dataclass(frozen=True, slots=True)
class Soaked:
    """One server with its load and the samples of it."""

    store: str
    server: ServerProcess
    load: Load
    samples: Samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="*", choices=[*STORES, []], help="default: all")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=draw_seed())
    parser.add_argument("--samples", type=Path, metavar="DIRECTORY", help="where each server's samples are written")
    parser.add_argument("--python", default=sys.executable, help="of the installation whose server is tried")
    given = parser.parse_args()
    print_machine()
    print_figure("soak.seed", given.seed, "count")
    with tempfile.TemporaryDirectory() as name:
        bundle = write_reference_bundle("small", Path(name))
        servers = SoakServers(bundle, SIZES["small"][2], Path(name), program_of(given.python))
        soaked = soak(servers, given.stores or STORES, 60 * given.minutes, given.seed)
    if given.samples:
        for one in soaked:
            one.samples.write(given.samples / f"{one.store}.csv")
    sys.exit(0 if print_figures(soaked) else 1)


def soak(
    servers: SoakServers, stores: Sequence[str], seconds: float, seed: int, num_records: int = _NUM_RECORDS
) -> list[Soaked]:
    """Runs the load on a server for each store. Raises FileNotFoundError when a server exits by itself."""
    with contextlib.ExitStack() as stack:
        soaked = []
        for store in stores:
            server = stack.enter_context(servers.running(store))
            load = Load(server.grpc_address, servers.vocabulary_size, f"{seed} {store}")
            soaked.append(Soaked(store, server, load, Samples()))
        asyncio.run(_soak(soaked, seconds, random.Random(seed), num_records))
    return soaked


async def _soak(soaked: Sequence[Soaked], seconds: float, dice: random.Random, num_records: int) -> None:
    await asyncio.gather(*(one.load.fill_records(num_records) for one in soaked))
    addresses = [one.server.grpc_address for one in soaked]
    endless: list[Coroutine[Any, Any, None]] = [
        *(one.load.run(_CLIENTS_PER_SERVER) for one in soaked),
        *(sample_for_ever(one.server.process.pid, one.load.count_turns, one.samples) for one in soaked),
        vanish_again_and_again(addresses, dice),
        be_silent_again_and_again(addresses, dice),
    ]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            for one in endless:
                group.create_task(one)


def print_figures(soaked: Sequence[Soaked]) -> bool:
    """Prints a line for each store and one for the worst. Returns whether all targets are met."""
    growths = [bytes_per_turn(one.samples) for one in soaked]
    files = [files_per_thousand_turns(one.samples) for one in soaked]
    num_unexpected = sum(one.load.unexpected.total() for one in soaked)
    for one, growth, leaked in zip(soaked, growths, files, strict=True):
        print_figure(f"soak.{one.store}.turns", one.load.num_turns, "count")
        print_figure(f"soak.{one.store}.rss_slope_bytes_per_turn", growth, "B", at_most=MAX_BYTES_PER_TURN)
        print_figure(f"soak.{one.store}.open_files_slope", leaked, "1/1000", at_most=0)
        for message, count in one.load.unexpected.most_common(10):
            print(f"{one.store}: {count} times {message}", file=sys.stderr)
    print_figure("soak.turns", sum(one.load.num_turns for one in soaked), "count")
    print_figure("soak.rss_slope_bytes_per_turn", max(growths), "B", at_most=MAX_BYTES_PER_TURN)
    print_figure("soak.open_files_slope", max(files), "1/1000", at_most=0)
    print_figure("soak.errors_unexpected", num_unexpected, "count", at_most=0)
    return max(growths) <= MAX_BYTES_PER_TURN and max(files) <= 0 and not num_unexpected


def bytes_per_turn(samples: Samples) -> float:
    """The largest growth of resident memory per turn, with 95 % confidence."""
    xs, ys = after_first_quarter(samples.turns, samples.resident_bytes)
    return fit_slope(xs, ys).upper(0.95)


def files_per_thousand_turns(samples: Samples) -> float:
    """The smallest growth of open files, with 99.9 % confidence: clients come and go, so the number always varies."""
    xs, ys = after_first_quarter(samples.turns, samples.open_files)
    return max(0.0, 1000 * fit_slope(xs, ys).lower(0.999))


if __name__ == "__main__":
    main()
