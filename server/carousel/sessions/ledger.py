"""A session's past as parts in a store: what each part holds, and how each event changes the parts. Pure functions.

at/<revision>             the snapshot after that change; the row's own revision names the current snapshot
at/<revision>~<turn>      the snapshot after each but the last of several turns that the next change wrote together
mark/<name>               a named checkpoint
answer/<revision>/<id>    the answer of the turn with that request id; <revision>~<turn> as above
used                      8 bytes per applied request id, newest last: many more ids than answers
origin                    where the session was forked from; never changes
moves                     what rewinds and checkpoints with request ids did: one `Move` each, while `used` has the id
"""

import hashlib
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from carousel.errors import PositionUnknown
from carousel.records import record
from carousel.settings import Settings
from carousel.state.codec import SnapshotCodec
from carousel.state.store import Birth, Change, Held

_DIGEST_BYTES = 8
_MOVE = struct.Struct("<8s12sq")
_ORIGIN = struct.Struct("<qq")  # incarnation and position; the id follows
FINGERPRINT_BYTES = 12


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of a session's past the store keeps."""

    max_turns: int  # turn boundaries that a rewind can go back to
    max_answers: int
    max_answer_bytes: int
    max_request_ids: int

    @classmethod
    def of(cls, settings: Settings) -> "Retention":
        return cls(
            max_turns=settings.retained_turns,
            max_answers=settings.retained_answers,
            max_answer_bytes=settings.max_answer_bytes,
            max_request_ids=settings.retained_request_ids,
        )


@record(frozen=True, slots=True)
class Move:
    """What a rewind or a checkpoint did."""

    fingerprint: bytes  # of the request's contents, FINGERPRINT_BYTES
    position: int


@record(frozen=True, slots=True)
class Origin:
    """The session that this one was forked from, and where the two part. Its id may be another session's by now: that
    one has another incarnation."""

    session_id: str
    incarnation: int
    position: int


@record(frozen=True, slots=True)
class Boundary:
    """The session's snapshot after the nth of several turns."""

    number: int  # from 1
    snapshot: bytes


@dataclass(frozen=True, slots=True)
class Ledger:
    """The rules for a session's past."""

    retention: Retention

    def open(
        self, session_id: str, owner: str, incarnation: int, snapshot: bytes, origin: Origin | None = None
    ) -> Birth:
        """Returns a new session at the snapshot."""
        parts = {_at(0): snapshot}
        if origin is not None:
            parts["origin"] = _ORIGIN.pack(origin.incarnation, origin.position) + origin.session_id.encode()
        return Birth(session_id, owner, incarnation, SnapshotCodec.position(snapshot), parts)

    def origin(self, held: Held) -> Origin | None:
        """Returns what the session was forked from, if it was."""
        part = held.parts.get("origin")
        if part is None:
            return None
        return Origin(part[_ORIGIN.size :].decode(), *_ORIGIN.unpack_from(part))

    def current(self, held: Held) -> bytes:
        return held.parts[_at(held.row.revision)]

    def advance(self, held: Held, snapshot: bytes, request_id: str, answer: bytes) -> Change:
        """Returns the change for a turn: a new boundary, and the answer if the request has an id. A turn that did not
        move the session keeps its boundary. An empty answer, or one above the bound, is not kept; its request still
        counts as applied."""
        put: dict[str, bytes] = {_at(held.row.revision + 1): snapshot}
        if snapshot == self.current(held):
            drop = [_at(held.row.revision)]
        else:
            boundaries = [key for key in held.parts if key.startswith("at/")]
            num_over = len(boundaries) - self.retention.max_turns
            drop = sorted(boundaries)[:num_over] if num_over > 0 else []
        if request_id:
            put["used"] = self._use(held, request_id)
            answers = self.answer_keys(held)
            if 0 < len(answer) <= self.retention.max_answer_bytes:
                put[f"answer/{held.row.revision + 1:012d}/{request_id}"] = answer
            drop += answers[: self.num_dropped(len(answers))]
        return Change(SnapshotCodec.position(snapshot), put, tuple(drop))

    def advance_many(
        self,
        held: Held,
        boundaries: Sequence[Boundary],
        request_ids: Sequence[str],
        answers: Sequence[tuple[int, str, bytes]],
        dropped_answers: Sequence[str] = (),
    ) -> Change:
        """Returns the change for several turns that each moved the session: their last boundaries and all their request
        ids. `answers` are the kept answers, each with its turn's number and request id. `dropped_answers` are the keys
        of the answers that `num_dropped` drops, turn by turn."""
        revision, last = held.row.revision, boundaries[-1]
        put = {_among(revision, one.number): one.snapshot for one in boundaries[:-1]}
        put[_at(revision + 1)] = last.snapshot
        kept = sorted([key for key in held.parts if key.startswith("at/")])
        drop = kept[: max(0, len(kept) + len(boundaries) - self.retention.max_turns - 1)]
        if request_ids:
            put["used"] = self._use(held, *request_ids)
        for number, request_id, answer in answers:
            turn = f"{revision + 1:012d}" if number == last.number else f"{revision:012d}~{number:04d}"
            put[f"answer/{turn}/{request_id}"] = answer
        return Change(SnapshotCodec.position(last.snapshot), put, (*drop, *dropped_answers))

    def answer_keys(self, held: Held) -> list[str]:
        """Returns the keys of the answers, oldest first."""
        return sorted([key for key in held.parts if key.startswith("answer/")])

    def num_dropped(self, count: int) -> int:
        """Returns how many of `count` answers the next turn's answer drops, oldest first, even if that answer itself is
        not kept."""
        return max(0, count + 1 - self.retention.max_answers)

    def is_used(self, held: Held, request_id: str) -> bool:
        """Whether the request was applied. A kept answer shows it too: answers may be kept for longer than ids, and a
        session may have answers and no ids yet."""
        return self.is_remembered(held, request_id) or self.find_answer(held, request_id) is not None

    def is_remembered(self, held: Held, request_id: str) -> bool:
        """Whether the id is among those of the last applied requests."""
        return _has(held.parts.get("used", b""), _digest(request_id))

    def find_answer(self, held: Held, request_id: str) -> bytes | None:
        """Returns that turn's answer, or None if there is none or it is not kept any more."""
        keys = (key for key in held.parts if key.startswith("answer/") and key.split("/", 2)[2] == request_id)
        return next((held.parts[key] for key in keys), None)

    def find_move(self, held: Held, request_id: str) -> Move | None:
        """Returns what the rewind or checkpoint with that id did."""
        digest = _digest(request_id)
        return next((move for one, move in _moves(held) if one == digest), None)

    def find(self, held: Held, position: int | None, mark: str) -> bytes:
        """Returns the newest snapshot at a retained position, or a checkpoint's; with neither, the current one."""
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

    def rewind(self, held: Held, snapshot: bytes) -> Change:
        """Returns the change that goes back to the snapshot. It drops the boundaries after it, but no checkpoints."""
        position = SnapshotCodec.position(snapshot)
        later = tuple(key for key, blob in _boundaries(held) if SnapshotCodec.position(blob) >= position)
        return Change(position, {_at(held.row.revision + 1): snapshot}, later)

    def mark(self, held: Held, name: str) -> Change:
        """Returns the change that names the current position."""
        snapshot = self.current(held)
        put = {f"mark/{name}": snapshot, _at(held.row.revision + 1): snapshot}
        return Change(held.row.position, put, (_at(held.row.revision),))

    def record_move(self, held: Held, change: Change, request_id: str, fingerprint: bytes) -> Change:
        """Returns the change with the id of its request added."""
        used = self._use(held, request_id)
        known = [(one, move) for one, move in _moves(held) if _has(used, one)]
        moves = [_MOVE.pack(one, move.fingerprint, move.position) for one, move in known]
        moves.append(_MOVE.pack(_digest(request_id), fingerprint, change.position))
        return Change(change.position, {**change.put, "used": used, "moves": b"".join(moves)}, change.drop)

    def positions(self, held: Held) -> list[int]:
        """Returns the positions that a rewind can go back to, oldest first; the last is the current one."""
        return sorted({SnapshotCodec.position(snapshot) for _, snapshot in _boundaries(held)})

    def marks(self, held: Held) -> dict[str, int]:
        """Returns the positions of the checkpoints, by name."""
        marks = ((key.removeprefix("mark/"), part) for key, part in held.parts.items() if key.startswith("mark/"))
        return {name: SnapshotCodec.position(part) for name, part in sorted(marks)}

    def _use(self, held: Held, *request_ids: str) -> bytes:
        """Returns the `used` part with these ids as the newest. Without such a part, the answers show the used ids."""
        used = held.parts.get("used")
        if used is None:
            answers = sorted(key for key in held.parts if key.startswith("answer/"))
            used = b"".join(_digest(key.split("/", 2)[2]) for key in answers)
        new = b"".join(map(_digest, request_ids))
        return (used + new)[-_DIGEST_BYTES * self.retention.max_request_ids :]


def _digest(request_id: str) -> bytes:
    return hashlib.blake2b(request_id.encode(), digest_size=_DIGEST_BYTES).digest()


def _has(used: bytes, digest: bytes) -> bool:
    """Whether `used` holds the digest, and not just its bytes across two others."""
    at = used.find(digest)
    while at % _DIGEST_BYTES and at >= 0:
        at = used.find(digest, at + 1)
    return at >= 0


def _moves(held: Held) -> Iterator[tuple[bytes, Move]]:
    """Returns the digests of request ids with what the requests did, oldest first."""
    return ((one, Move(*rest)) for one, *rest in _MOVE.iter_unpack(held.parts.get("moves", b"")))


def _at(revision: int) -> str:
    return sys.intern(f"at/{revision:012d}")  # a million sessions share the keys of their first turns


def _among(revision: int, number: int) -> str:
    """Returns a key that sorts after `_at(revision)` and before the next revision's."""
    return sys.intern(f"at/{revision:012d}~{number:04d}")


def _boundaries(held: Held) -> Iterator[tuple[str, bytes]]:
    """Returns the boundaries, oldest first; the current one is last."""
    return ((key, held.parts[key]) for key in sorted(held.parts) if key.startswith("at/"))
