"""A long list of sessions, page by page. A token, which only this server makes, says where a page ended."""

import binascii
import math
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from carousel.errors import InvalidRequest
from carousel.state.store import Row

_DEFAULT_SIZE = 50
_MAX_SIZE = 1000
_Place = tuple[float, str]  # moment of creation, id


@dataclass(frozen=True, slots=True)
class Page:
    rows: Sequence[Row]
    next_token: str  # empty on the last page


async def read_page(find: Callable[[_Place, int], Awaitable[Sequence[Row]]], size: int, token: str) -> Page:
    """Returns one page. `find` returns a number of rows after a place. Size 0 is the default. Raises InvalidRequest."""
    if size < 0:
        raise InvalidRequest("page_size", f"must not be negative, as {size} is")
    size = min(size or _DEFAULT_SIZE, _MAX_SIZE)
    found = await find(_read_token(token), size + 1)
    page = found[:size]
    return Page(page, _write_token(page[-1]) if len(found) > size else "")


def _write_token(row: Row) -> str:
    return urlsafe_b64encode(f"{row.created_at!r} {row.id}".encode()).decode()


def _read_token(token: str) -> _Place:
    """Returns where the last page ended. Raises InvalidRequest for a token that this server did not make."""
    if not token:
        return 0.0, ""
    try:
        moment, _, session_id = urlsafe_b64decode(token).decode().partition(" ")
        created_at = float(moment)
    except (ValueError, binascii.Error):
        created_at, session_id = math.nan, ""
    if not math.isfinite(created_at):
        raise InvalidRequest("page_token", "is not one that this server made")
    return created_at, session_id
