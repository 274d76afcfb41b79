"""What remembering request ids costs a session in memory.

    python -m bench.request_ids [--quick]

Two worlds of equal sessions take 300 turns each, one with ids and one without. The answers are left out: they have a
bound of their own (`max_answer_bytes`), and are one figure more.
"""

import argparse
import gc
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop
from bench.growth import resident_bytes
from bench.reference_models import write_reference_bundle
from bench.report import print_figure, print_machine
from prometheus_client import CollectorRegistry

from carousel.app import make_lives
from carousel.bundle.manifest import Bundle
from carousel.engine.engine import Engine
from carousel.engine.model import OnnxModel
from carousel.engine.scheduler import Bounds
from carousel.metrics import Metrics
from carousel.sessions.lives import Lives
from carousel.settings import Settings
from carousel.state.memory import MemoryStore
from carousel.state.store import Capacity, Lifetimes
from carousel.turns import Snapshot

NUM_SESSIONS, NUM_TURNS = 2_000, 300
AT_MOST_BYTES = 2.3 * 1024


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the sessions")
    given = parser.parse_args(arguments)
    print_machine()
    with tempfile.TemporaryDirectory() as directory:
        bundle = Bundle.load(write_reference_bundle("small", Path(directory)))
        uvloop.run(measure_request_ids(bundle, NUM_SESSIONS // 10 if given.quick else NUM_SESSIONS))


async def measure_request_ids(bundle: Bundle, num_sessions: int) -> None:
    metrics = Metrics(CollectorRegistry())
    engine = Engine(OnnxModel(bundle), bundle.manifest.start_id, Bounds(), metrics)
    await engine.start()
    costs = {}
    for kind in (Kind("without"), Kind("with", has_ids=True), Kind("answered", has_ids=True, answer=b"x" * 300)):
        before = resident_bytes()
        lives = _make_lives(bundle, metrics)
        for number in range(num_sessions):
            await _talk(lives, f"s{number}", engine.start_snapshot, kind)
        gc.collect()
        costs[kind.name] = (resident_bytes() - before) / num_sessions
        del lives
    print_figure("sessions.used.bytes", costs["with"] - costs["without"], "bytes", at_most=AT_MOST_BYTES)
    print_figure("sessions.used_with_answers.bytes", costs["answered"] - costs["without"], "bytes")
    await engine.stop()


@dataclass(frozen=True, slots=True)
class Kind:
    """How the sessions of a world talk."""

    name: str
    has_ids: bool = False
    answer: bytes = b""  # that is kept for a repeat


def _make_lives(bundle: Bundle, metrics: Metrics) -> Lives:
    settings = Settings()
    store = MemoryStore(Capacity(settings.max_sessions, 2**45, evicts=False), Lifetimes(1e6, 1e6))
    return make_lives(settings, bundle, store, metrics)


async def _talk(lives: Lives, session_id: str, start: Snapshot, kind: Kind) -> None:
    """Turns as they are saved, without the arithmetic."""
    await lives.create("", session_id, start)
    for turn in range(1, NUM_TURNS + 1):
        blob = lives.codec.encode(Snapshot(turn, start.state, start.hidden_H, start.recent_ids))
        async with lives.take("", session_id) as held:
            request_id = f"{session_id}-{turn}" if kind.has_ids else ""
            await lives.commit(held, lives.ledger.advance(held, blob, request_id, kind.answer))


if __name__ == "__main__":
    main()
