"""Sessions that streams hold answer as those that are taken for every message: no difference in any answer, position,
error or bit, whatever else callers do between, at once or by giving up.
"""

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
    """And some messages did stay with who holds, or nothing would be compared."""
    monkeypatch.setattr(residents, "_WANTED_SECONDS", 0.0)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(run_redis(tmp_path)).url if kind == "redis" else ""
        assert await run_pair(kind, seed, tmp_path, url) > NUM_ROUNDS // 15
