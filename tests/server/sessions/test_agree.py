"""Sessions that streams hold answer as those that are taken for every message: every answer, position, error and bit is
the same, whatever other callers do between, at once or by giving up."""

import contextlib
from pathlib import Path

import pytest
from tests.server.sessions.paired_stores import STORES
from tests.server.sessions.pairs import NUM_ROUNDS, run_pair
from tests.server.state.conftest import run_redis

from carousel.sessions import residents

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", STORES)
async def test_who_holds_answers_as_who_takes(
    kind: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both worlds answer alike, and some messages did stay with held sessions, or nothing would be compared."""
    monkeypatch.setattr(residents, "_WANTED_SECONDS", 0.0)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(run_redis(tmp_path)).url if kind == "redis" else ""
        assert await run_pair(kind, seed, tmp_path, url) > NUM_ROUNDS // 15
