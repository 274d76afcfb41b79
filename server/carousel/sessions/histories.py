"""The owner's sessions with their pasts, for who looks at all of them at once."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from carousel.errors import CarouselError, InvalidRequest, SessionEnded, SessionNotFound
from carousel.sessions.operations import History, SessionOperations

MAX_SESSIONS = 100  # of one answer
_SECONDS = 1.0  # that running turns have before their sessions are told without a past


@dataclass(frozen=True, slots=True)
class Histories:
    """`next_token` is empty on the last page. A session in the middle of a turn has no positions."""

    histories: Sequence[History]
    next_token: str


async def read_histories(operations: SessionOperations, owner: str, size: int, token: str) -> Histories:
    """Returns a page of the owner's sessions, oldest first. Sessions that end meanwhile are left out. Raises
    InvalidRequest."""
    if size > MAX_SESSIONS:
        raise InvalidRequest("page_size", f"must be from 0 to {MAX_SESSIONS}, not {size}")
    page = await operations.list_page(owner, size, token)
    found: dict[str, History | None] = {row.id: History(row, (), {}) for row in page.rows}

    async def read(session_id: str) -> None:
        with contextlib.suppress(CarouselError):  # too many turns wait for it: it is told without a past
            try:
                found[session_id] = await operations.history(owner, session_id)
            except (SessionEnded, SessionNotFound):
                found[session_id] = None

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SECONDS), asyncio.TaskGroup() as group:
            for row in page.rows:
                group.create_task(read(row.id))
    there = {name: one for name, one in found.items() if one is not None}
    return Histories([_without_strangers(one, there) for one in there.values()], page.next_token)


def _without_strangers(history: History, there: Mapping[str, History]) -> History:
    """Leaves out an origin whose id is another session's by now."""
    origin = history.origin
    parent = None if origin is None else there.get(origin.session_id)
    if origin is None or parent is None or parent.row.incarnation == origin.incarnation:
        return history
    return replace(history, origin=None)
