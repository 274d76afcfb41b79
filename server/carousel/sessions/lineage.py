"""The owner's sessions with their pasts, for who looks at all of them at once."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from carousel.errors import CarouselError, InvalidRequest
from carousel.sessions.operations import History, SessionOperations

MAX_SESSIONS = 100  # of one answer
_SECONDS = 1.0  # that running turns have before their sessions are told without a past


@dataclass(frozen=True, slots=True)
class Lineage:
    """`next_token` is empty on the last page. A session in the middle of a turn has no positions."""

    histories: Sequence[History]
    next_token: str


async def read_lineage(operations: SessionOperations, owner: str, size: int, token: str) -> Lineage:
    """Returns a page of the owner's sessions, oldest first. Sessions that end meanwhile are left out. Raises
    InvalidRequest."""
    if size > MAX_SESSIONS:
        raise InvalidRequest("page_size", f"must be from 0 to {MAX_SESSIONS}, not {size}")
    page = await operations.list_page(owner, size, token)
    found: dict[str, History | None] = {row.id: History(row, (), {}) for row in page.rows}

    async def read(session_id: str) -> None:
        try:
            found[session_id] = await operations.history(owner, session_id)
        except CarouselError:
            found[session_id] = None

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SECONDS), asyncio.TaskGroup() as group:
            for row in page.rows:
                group.create_task(read(row.id))
    histories = {name: one for name, one in found.items() if one is not None}
    return Lineage([_without_strangers(one, histories) for one in histories.values()], page.next_token)


def _without_strangers(history: History, histories: Mapping[str, History]) -> History:
    """Leaves out an origin whose id is another session's by now."""
    origin = history.origin
    there = None if origin is None else histories.get(origin.session_id)
    if origin is None or there is None or there.row.incarnation == origin.incarnation:
        return history
    return replace(history, origin=None)
