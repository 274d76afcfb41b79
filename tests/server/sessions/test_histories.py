"""Who looks at all sessions at once never waits for a turn, and sees each session once."""

import asyncio
from typing import Any, cast

import pytest

from carousel.errors import InvalidRequest, Overloaded, SessionDeleted
from carousel.sessions import histories
from carousel.sessions.histories import MAX_SESSIONS, Histories, read_histories
from carousel.sessions.ledger import Origin
from carousel.sessions.operations import History, SessionOperations
from carousel.sessions.pages import Page
from carousel.state.store import Row


class FakeOperations:
    """Sessions by name: at rest, in the middle of a turn that never ends, or about to be deleted."""

    def __init__(self, **kinds: str) -> None:
        self.kinds = kinds
        self.num_waiting = 0
        self.origins: dict[str, Origin] = {}

    async def list_page(self, owner: str, size: int, token: str) -> Page:
        return Page([Row(name, owner, 1, 0, 7, 0.0, 0.0, 0.0) for name in self.kinds], f"after {size} {token}")

    async def history(self, owner: str, session_id: str) -> History:
        if self.kinds[session_id] == "deleted":
            raise SessionDeleted("gone")
        if self.kinds[session_id] == "crowded":
            raise Overloaded("turns wait", limit="max_turns_per_session", retry_seconds=1.0)
        if self.kinds[session_id] == "busy":
            self.num_waiting += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.num_waiting -= 1
        return History(
            Row(session_id, owner, 1, 2, 9, 0.0, 0.0, 0.0), (3, 9), {"mark": 3}, self.origins.get(session_id)
        )


async def read(operations: FakeOperations, size: int = 0, token: str = "") -> Histories:
    return await read_histories(cast(SessionOperations, operations), "ann", size, token)


async def test_a_running_turn_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its session is told as it is listed; the others have their pasts, and nothing is left waiting."""
    monkeypatch.setattr(histories, "_SECONDS", 0.05)
    operations = FakeOperations(a="rest", b="busy", c="rest")
    found = await read(operations, 2, "x")
    assert [(one.row.id, one.positions, one.row.position) for one in found.histories] == [
        ("a", (3, 9), 9),
        ("b", (), 7),
        ("c", (3, 9), 9),
    ]
    assert (found.next_token, operations.num_waiting) == ("after 2 x", 0)


async def test_a_session_that_ends_meanwhile_is_left_out() -> None:
    found = await read(FakeOperations(a="deleted", b="rest"))
    assert [one.row.id for one in found.histories] == ["b"]


async def test_a_session_for_which_turns_wait_is_told_without_a_past() -> None:
    found = await read(FakeOperations(a="crowded"))
    assert [(one.row.id, one.positions) for one in found.histories] == [("a", ())]


async def test_a_parent_is_the_one_that_was_forked() -> None:
    """Not another session that has its name by now; one out of sight is told as it is."""
    operations = FakeOperations(a="rest", b="rest", c="rest", d="rest")
    operations.origins = {"b": Origin("a", 1, 3), "c": Origin("a", 2, 3), "d": Origin("gone", 5, 3)}
    found = await read(operations)
    assert [one.origin for one in found.histories] == [None, Origin("a", 1, 3), None, Origin("gone", 5, 3)]


async def test_a_page_has_a_bound() -> None:
    with pytest.raises(InvalidRequest, match="page_size"):
        await read(FakeOperations(), MAX_SESSIONS + 1)


async def test_a_caller_that_goes_leaves_nothing_waiting() -> None:
    operations = FakeOperations(a="busy")
    task: asyncio.Task[Any] = asyncio.create_task(read(operations))
    while not operations.num_waiting:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert operations.num_waiting == 0
