"""A fuzz with one seed: decoders in a child, calls and garbage to two servers, all at the same time."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trials.fuzz.calling import GARBAGE, Player
from trials.fuzz.decoding import run_decoder
from trials.fuzz.findings import Report
from trials.fuzz.guiding import is_available, run_guided
from trials.fuzz.servers import PLANS, FuzzedServer
from trials.fuzz.tiny_model import write_tiny_bundle

from carousel.bundle.manifest import Bundle

DECODED: Mapping[str, int] = {  # how many of each kind with one seed
    "snapshots": 10_000,
    "seals": 6000,
    "memory_files": 4000,
    "sqlite_files": 3000,
    "turn_logs": 3000,
    "bundles": 3000,
    "settings": 5000,
}
CALLED: Mapping[str, int] = {"messages": 10_000, "states": 3500, "page_tokens": 3500, "orders": 2500, GARBAGE: 2500}
GUIDED: Mapping[str, int] = dict.fromkeys(
    ("guided_snapshots", "guided_memory_files", "guided_manifests") if is_available() else (), 20_000
)
KINDS: Mapping[str, int] = {**DECODED, **CALLED, **GUIDED}
_PYTHON = (sys.executable, "-m")


@dataclass(frozen=True, slots=True)
class Fuzz:
    """Inputs `first` to `first` + its count of each kind, times `share`, or `num_inputs` where given. The commands
    start the server and the child that decodes."""

    seed: int
    kinds: Sequence[str] = tuple(KINDS)
    first: int = 0
    num_inputs: int | None = None
    share: float = 1.0
    hang_seconds: float = 20.0
    server_command: Sequence[str] = (*_PYTHON, "carousel")
    decoder_command: Sequence[str] = (*_PYTHON, "trials.fuzz.decode_child")
    guided_command: Sequence[str] = (*_PYTHON, "trials.fuzz.guided_child")

    def numbers(self, kind: str) -> range:
        count = int(KINDS[kind] * self.share) if self.num_inputs is None else self.num_inputs
        return range(self.first, self.first + count)


def run_fuzz(fuzz: Fuzz, directory: Path) -> Report:
    """Creates `directory`; findings and the servers' output stay there."""
    directory.mkdir(parents=True)
    bundle = write_tiny_bundle(directory / "tiny")
    report = Report(fuzz.seed, directory)
    asyncio.run(_run(fuzz, bundle, report))
    return report


async def _run(fuzz: Fuzz, bundle: Path, report: Report) -> None:
    called = [kind for kind in fuzz.kinds if kind in CALLED]
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(_decode, fuzz, bundle, report))
        for index in range(len(PLANS) if called else 0):
            group.create_task(_call(fuzz, called, index, bundle, report))


def _decode(fuzz: Fuzz, bundle: Path, report: Report) -> None:
    for kind in fuzz.kinds:
        if kind in DECODED:
            run_decoder(fuzz.decoder_command, kind, bundle, report, fuzz.numbers(kind), fuzz.hang_seconds)
        if kind in GUIDED:
            run_guided(fuzz.guided_command, kind, bundle, report, len(fuzz.numbers(kind)))


async def _call(fuzz: Fuzz, kinds: Sequence[str], index: int, bundle: Path, report: Report) -> None:
    """Sends every second input to this server."""
    directory = report.directory / PLANS[index].name
    directory.mkdir()
    server = FuzzedServer(PLANS[index], fuzz.server_command, bundle, directory, fuzz.hang_seconds)
    player = Player(server, Bundle.load(bundle).manifest, report, fuzz.hang_seconds)
    try:
        await server.start()
        for kind in kinds:
            await player.run(kind, [number for number in fuzz.numbers(kind) if number % len(PLANS) == index])
    finally:
        await server.stop()
