"""A session's past as the parts of a store: which part is what, and how each event changes them. Pure functions.

at/<revision>             the snapshot after that change; the row's own revision names the current one
mark/<name>               a named checkpoint
answer/<revision>/<id>    what the request with that id was answered
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from carousel.errors import PositionUnknown
from carousel.state.codec import SnapshotCodec
from carousel.state.store import Change, Held, Parts, Row


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of a session's past is kept, and how long the session lives."""

    max_turns: int  # turn boundaries that a rewind can go back to
    max_answers: int
    max_answer_bytes: int
    idle_seconds: float
    lifetime_seconds: float


@dataclass(frozen=True, slots=True)
class Ledger:
    """The rules. Times are seconds since the epoch."""

    retention: Retention

    def open(self, session_id: str, owner: str, incarnation: int, snapshot: bytes, now: float) -> tuple[Row, Parts]:
        """A new session that stands at the snapshot."""
        position = SnapshotCodec.position(snapshot)
        row = Row(session_id, owner, incarnation, 0, position, now, now, self._expiry(now, now))
        return row, {_at(0): snapshot}

    def current(self, held: Held) -> bytes:
        return held.parts[_at(held.row.revision)]

    def advance(self, held: Held, snapshot: bytes, now: float, request_id: str, answer: bytes) -> Change:
        """A turn: a new boundary, and the answer to its request if it has an id. A turn that moved nothing keeps its
        boundary."""
        row = self._next(held.row, SnapshotCodec.position(snapshot), now)
        if snapshot == self.current(held):
            put, drop = {_at(row.revision): snapshot}, [_at(held.row.revision)]
        else:
            put, drop = {_at(row.revision): snapshot}, []
            boundaries = [key for key in held.parts if key.startswith("at/")]
            if len(boundaries) > self.retention.max_turns:
                drop += sorted(boundaries)[: len(boundaries) - self.retention.max_turns]
        if request_id:
            kept = answer if len(answer) <= self.retention.max_answer_bytes else b""
            put[f"answer/{row.revision:012d}/{request_id}"] = kept
            answers = sorted(key for key in held.parts if key.startswith("answer/"))
            drop += answers[: max(0, len(answers) + 1 - self.retention.max_answers)]
        return Change(row, put, tuple(drop))

    def find_answer(self, held: Held, request_id: str) -> bytes | None:
        """What that request was answered; empty if it was applied and its answer was too large to keep."""
        keys = (key for key in held.parts if key.startswith("answer/") and key.split("/", 2)[2] == request_id)
        return next((held.parts[key] for key in keys), None)

    def find(self, held: Held, position: int | None, mark: str) -> bytes:
        """The snapshot at a retained position (the newest there) or checkpoint; with neither, the current one."""
        if mark:
            found = held.parts.get(f"mark/{mark}")
            if found is None:
                raise PositionUnknown(f"there is no checkpoint {mark!r}")
            return found
        if position is None:
            return self.current(held)
        for _, snapshot in reversed(list(_boundaries(held))):
            if SnapshotCodec.position(snapshot) == position:
                return snapshot
        retained = ", ".join(map(str, self.positions(held)))
        raise PositionUnknown(f"position {position} is not retained; these are: {retained}")

    def rewind(self, held: Held, snapshot: bytes, now: float) -> Change:
        """Go back; the boundaries after it are forgotten, checkpoints are not."""
        position = SnapshotCodec.position(snapshot)
        row = self._next(held.row, position, now)
        later = tuple(key for key, blob in _boundaries(held) if SnapshotCodec.position(blob) >= position)
        return Change(row, {_at(row.revision): snapshot}, later)

    def mark(self, held: Held, name: str, now: float) -> Change:
        """Name the current position."""
        row = self._next(held.row, held.row.position, now)
        snapshot = self.current(held)
        put = {f"mark/{name}": snapshot, _at(row.revision): snapshot}
        return Change(row, put, (_at(held.row.revision),))

    def unmark(self, held: Held, name: str, now: float) -> Change:
        row = self._next(held.row, held.row.position, now)
        return Change(row, {_at(row.revision): self.current(held)}, (_at(held.row.revision), f"mark/{name}"))

    def positions(self, held: Held) -> list[int]:
        """That a rewind can go back to, oldest first; the last is the current one."""
        return sorted({SnapshotCodec.position(snapshot) for _, snapshot in _boundaries(held)})

    def marks(self, held: Held) -> dict[str, int]:
        """Positions of the checkpoints, by name."""
        marks = ((key.removeprefix("mark/"), part) for key, part in held.parts.items() if key.startswith("mark/"))
        return {name: SnapshotCodec.position(part) for name, part in sorted(marks)}

    def _next(self, row: Row, position: int, now: float) -> Row:
        expires_at = self._expiry(row.created_at, now)
        revision = row.revision + 1
        return Row(row.id, row.owner, row.incarnation, revision, position, row.created_at, now, expires_at)

    def _expiry(self, created_at: float, now: float) -> float:
        return min(created_at + self.retention.lifetime_seconds, now + self.retention.idle_seconds)


def _at(revision: int) -> str:
    return sys.intern(f"at/{revision:012d}")  # a million sessions share the keys of their first turns


def _boundaries(held: Held) -> Iterator[tuple[str, bytes]]:
    """Oldest first, the current one last."""
    return ((key, held.parts[key]) for key in sorted(held.parts) if key.startswith("at/"))
