"""The Redis form of a session: two hashes with its owner and id as hash tag, so that one script reaches both."""

import functools
from collections.abc import Iterator
from itertools import chain
from typing import Any
from urllib.parse import quote

from carousel.state.store import Ending, EndReason, Parts, Row

Key = tuple[str, str]  # owner, session id
_MAX_KEYS = 8192  # whose names are cached
EPOCH, TOKENS = 9, 10  # indices into the values that scripts read


@functools.lru_cache(_MAX_KEYS)
def keys_of(key: Key) -> tuple[str, str]:
    """Returns the keys of row and parts. They are quoted, so that no two pairs of owner and id share a key."""
    tag = f"{quote(key[0], safe='')}:{quote(key[1], safe='')}"
    return f"carousel2:{{{tag}}}:row", f"carousel2:{{{tag}}}:parts"


def endings_key(owner: str) -> str:
    """Returns the key of an owner's list of endings, oldest first."""
    return f"carousel2:endings:{{{quote(owner, safe='')}}}"


def read_row(session_id: str, values: Any) -> Row:
    owner, incarnation, revision, position, created_at, updated_at, expires_at, *_ = values
    moments = (float(created_at), float(updated_at), float(expires_at))
    return Row(session_id, owner.decode(), int(incarnation), int(revision), int(position), *moments)


def read_ending(session_id: str, values: Any) -> Ending:
    owner, incarnation, *_, ending, ended_at, _epoch, _tokens = values
    return Ending(session_id, owner.decode(), EndReason(ending.decode()), float(ended_at), int(incarnation))


def flat(parts: Parts) -> Iterator[str | bytes]:
    return chain.from_iterable(parts.items())


def weigh(parts: Parts) -> int:
    return 400 + sum(len(part) for part in parts.values())
