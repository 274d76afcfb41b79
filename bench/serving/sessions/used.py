"""What remembering request ids costs a session in memory.

    python -m bench.serving.sessions.used [--quick]

Two worlds of equal sessions take 300 turns each, one with ids and one without. The answers are left out: they have a
bound of their own (`max_answer_bytes`), and are one figure more.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop
from bench.harness.memory import resident_bytes
from bench.harness.reference_models import write_reference_bundle
from bench.harness.report import print_figure, print_machine
from prometheus_client import CollectorRegistry

from carousel.bundle.manifest import Bundle
from carousel.engine.engine import Engine
from carousel.engine.model import OnnxModel
from carousel.engine.scheduler import Bounds
from carousel.metrics import Metrics
from carousel.sessions.composition import SessionService, make_sessions
from carousel.settings import Settings
from carousel.state.memory import MemoryStore
from carousel.state.store import Capacity, Lifetimes
from carousel.turns import Snapshot

NUM_SESSIONS, NUM_TURNS = 2_000, 300
AT_MOST_BYTES = 2.3 * 1024


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the sessions")
    parser.add_argument("--kind", nargs=3, help=argparse.SUPPRESS)  # of one process, its bundle and number of sessions
    given = parser.parse_args(arguments)
    if given.kind is not None:
        name, directory, count = given.kind
        print(uvloop.run(_cost(Bundle.load(Path(directory)), KINDS[name], int(count))))
        return
    print_machine()
    with tempfile.TemporaryDirectory() as directory:
        bundle = write_reference_bundle("small", Path(directory))
        measure_request_ids(bundle, NUM_SESSIONS // 4 if given.quick else NUM_SESSIONS)


def measure_request_ids(bundle_directory: Path, num_sessions: int) -> None:
    """Each kind in a process of its own, so that none fills what another has left."""
    costs = {}
    for name in KINDS:
        command = [sys.executable, "-m", "bench.serving.sessions.used", "--kind", name]
        command += [str(bundle_directory), str(num_sessions)]
        costs[name] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print_figure("sessions.used.bytes", costs["with"] - costs["without"], "bytes", at_most=AT_MOST_BYTES)
    print_figure("sessions.used_with_answers.bytes", costs["answered"] - costs["without"], "bytes")


async def _cost(bundle: Bundle, kind: "Kind", num_sessions: int) -> float:
    """Resident bytes of a session."""
    metrics = Metrics(CollectorRegistry())
    engine = Engine(OnnxModel(bundle), bundle.manifest.start_id, Bounds.of(Settings()), metrics)
    await engine.start()
    service = _make_service(bundle, engine, metrics)
    await _talk(service, "first", engine.start_snapshot, kind)
    before = resident_bytes()
    for number in range(num_sessions):
        await _talk(service, f"s{number}", engine.start_snapshot, kind)
    cost = (resident_bytes() - before) / num_sessions
    await engine.stop()
    return cost


@dataclass(frozen=True, slots=True)
class Kind:
    """How sessions talk."""

    has_ids: bool = False
    answer: bytes = b""  # that is kept for a repeat


KINDS = {"without": Kind(), "with": Kind(has_ids=True), "answered": Kind(has_ids=True, answer=b"x" * 300)}


def _make_service(bundle: Bundle, engine: Engine, metrics: Metrics) -> SessionService:
    settings = Settings()
    store = MemoryStore(Capacity(settings.max_sessions, 2**45, evicts=False), Lifetimes(1e6, 1e6))
    return make_sessions(settings, bundle.manifest, bundle.tokenizer, engine, store, metrics)


async def _talk(service: SessionService, session_id: str, start: Snapshot, kind: Kind) -> None:
    """Turns as they are saved, without the arithmetic."""
    await service.operations.create("", session_id, start)
    for turn in range(1, NUM_TURNS + 1):
        blob = service.codec.encode(Snapshot(turn, start.state, start.hidden_H, start.recent_ids))
        async with service.access.hold("", session_id) as held:
            request_id = f"{session_id}-{turn}" if kind.has_ids else ""
            await service.access.commit(held, service.ledger.advance(held, blob, request_id, kind.answer))


if __name__ == "__main__":
    main()
