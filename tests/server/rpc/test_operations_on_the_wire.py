"""The life of sessions on the wire, above a stand-in: request ids arrive, pages are bounded and cut in slices."""

import asyncio
import base64
import math
from typing import Any

import grpc
import pytest
from tests.server.rpc.desk import Desk, open_desk
from tests.server.rpc.test_server import refusal

from carousel.rpc import session_servicer
from carousel.sessions.operations import Point
from carousel.state.store import Row
from carousel.v1 import sessions_pb2

NOW = Point()


async def create(desk: Desk, *names: str) -> None:
    for name in names:
        await desk.life.CreateSession(sessions_pb2.CreateSessionRequest(session_id=name))
    desk.operations.seen.clear()


def request_of(method: str, **fields: Any) -> Any:
    return getattr(sessions_pb2, f"{method}Request")(**fields)


@pytest.mark.parametrize(
    ("method", "fields", "asked"),
    [
        ("CreateSession", {"session_id": "t"}, ("", "t", b"")),
        ("DeleteSession", {"session_id": "s"}, ("", "s")),
        ("ForkSession", {"session_id": "s", "new_session_ids": ["a", "b"]}, ("", "s", NOW, ("a", "b"), 0)),
        ("RewindSession", {"session_id": "s", "expected_position": 0}, ("", "s", NOW, 0)),
        ("RewindSession", {"session_id": "s"}, ("", "s", NOW, None)),
        ("SaveCheckpoint", {"session_id": "s", "checkpoint": "c"}, ("", "s", "c")),
        ("ImportSession", {"session_id": "t", "state": b"x"}, ("", "t", b"x")),
    ],
)
async def test_what_changes_something_brings_its_request_id(
    method: str, fields: dict[str, Any], asked: tuple[Any, ...]
) -> None:
    """Beside all that was asked; empty where there is none."""
    async with open_desk() as desk:
        for request_id in ("r", ""):
            await create(desk, "s")
            await getattr(desk.life, method)(request_of(method, request_id=request_id, **fields))
            assert desk.operations.seen == [(*asked, request_id)]


async def test_too_many_forks_are_refused_unread() -> None:
    """By the name of their list."""
    async with open_desk() as desk:
        await create(desk, "s")
        request = request_of("ForkSession", session_id="s", new_session_ids=["a"] * 101)
        code, _, details = await refusal(desk.life.ForkSession(request))
        found = (code, details["ErrorInfo"].metadata["field"])
        assert found == (grpc.StatusCode.INVALID_ARGUMENT, "new_session_ids")
        assert desk.operations.seen == []


@pytest.mark.parametrize(("page_size", "count"), [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)])
async def test_a_page_too_large_is_lowered(page_size: int, count: int) -> None:
    """To the most there is; 0 is the default. One more is looked for, to know whether there is a next page."""
    async with open_desk() as desk:
        await desk.life.ListSessions(request_of("ListSessions", page_size=page_size))
        assert desk.operations.seen == [("", (0.0, ""), count + 1)]


@pytest.mark.parametrize("page_size", [-1, -(2**31)])
async def test_a_negative_page_is_refused(page_size: int) -> None:
    """By its name."""
    async with open_desk() as desk:
        code, _, details = await refusal(desk.life.ListSessions(request_of("ListSessions", page_size=page_size)))
        assert (code, details["ErrorInfo"].metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "page_size")


@pytest.mark.parametrize("moment", ["nan", "inf", "-inf", "1e999", "x", "", "NaN"])
async def test_a_page_token_of_no_moment_is_refused(moment: str) -> None:
    """What the server never writes must reach no store."""
    async with open_desk() as desk:
        token = base64.urlsafe_b64encode(f"{moment} s".encode()).decode()
        code, _, details = await refusal(desk.life.ListSessions(request_of("ListSessions", page_token=token)))
        assert (code, details["ErrorInfo"].metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "page_token")
        assert desk.operations.seen == []


async def test_pages_follow_each_other() -> None:
    """The token of one leads to the next, and the last has none."""
    async with open_desk() as desk:
        await create(desk, "a", "b", "c")
        first = await desk.life.ListSessions(request_of("ListSessions", page_size=2))
        second = await desk.life.ListSessions(request_of("ListSessions", page_size=2, page_token=first.next_page_token))
        assert [one.session_id for one in (*first.sessions, *second.sessions)] == ["a", "b", "c"]
        assert second.next_page_token == ""


async def test_a_full_page_is_described_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 sessions in their order, with the loop turning in between."""
    turns: list[int] = []

    async def sleep(seconds: float) -> None:
        turns.append(1)

    async with open_desk() as desk:
        rows = [Row(f"s{n}", "", n, 0, 0, 1e9 + n, 1e9, 2e9) for n in range(1001)]
        desk.operations.rows = {("", row.id): row for row in rows}
        monkeypatch.setattr(asyncio, "sleep", sleep)
        page = await desk.life.ListSessions(request_of("ListSessions", page_size=1000))
        monkeypatch.undo()
        assert [one.session_id for one in page.sessions] == [row.id for row in rows[:1000]]
        assert len(turns) == math.ceil(1000 / session_servicer._ROWS_PER_SLICE) == 4
