"""A session that a Predict stream holds: its current state is in the engine's columns, not in the store.

The turns since the last write are kept as a few numbers each and become bytes when they are written. Where a turn must
be written before its answer, that is at once. Otherwise it is when another caller wants the session, after a short idle
time, or when there are many turns.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from carousel.bundle.tokenizer import Tokenizer
from carousel.engine.columns import Columns
from carousel.engine.engine import Engine
from carousel.errors import ModelFailed
from carousel.records import record
from carousel.sessions.answers import max_plain_bytes, write_plain_record
from carousel.sessions.ledger import Boundary, Ledger
from carousel.sessions.text import pending_bytes
from carousel.state.codec import SnapshotCodec
from carousel.state.store import Change, Held, Row
from carousel.turns import Snapshot


@record(frozen=True, slots=True)
class Plain:
    """The kind of turn that a resident can run: one token in, the likeliest next tokens out."""

    token_id: int
    num_candidates: int
    request_id: str = ""
    expected_position: int | None = None


class Named(NamedTuple):
    """The answer of a plain turn: token ids, the likeliest first, and log-probabilities in nats."""

    ids: Sequence[int]
    log_probabilities: Sequence[float]
    position: int
    durable_position: int

    def durable_to(self, position: int) -> "Named":
        return Named(self.ids, self.log_probabilities, self.position, position)


class Sink(Protocol):
    """What receives a turn's answer."""

    @property
    def is_over(self) -> bool:
        """Whether the caller has gone: then the turn must not happen."""
        ...

    def put(self, outcome: Named | Exception | None) -> None:
        """Takes the outcome. None means that the turn did not happen and must take the ordinary path."""
        ...


class Kit(NamedTuple):
    """What all residents of a model share."""

    columns: Columns
    ledger: Ledger
    codec: SnapshotCodec
    tokenizer: Tokenizer
    penalty_window: int


Found = tuple[Sequence[int], Sequence[float], bool]  # likeliest ids, their log-probabilities, whether all is finite
Then = Callable[[Any, Exception | None], None]  # takes what was found, or the error


class LoggedTurn(NamedTuple):
    """A turn that moved a session by one token, with its answer if it has a request id."""

    owner: str
    session_id: str
    incarnation: int
    revision: int  # of the session when it was last noted
    number: int  # of the turn since then, from 1
    at: float  # by the sessions' clock
    snapshot: bytes  # after the turn
    plain: Plain
    ids: Sequence[int]
    log_probabilities: Sequence[float]


class _Answer(NamedTuple):
    number: int  # of the turn
    plain: Plain
    ids: Sequence[int]
    log_probabilities: Sequence[float]
    position: int

    def record(self) -> bytes:
        plain = self.plain
        return write_plain_record(plain.token_id, plain.num_candidates, self.ids, self.log_probabilities, self.position)


class Resident:
    """A held session. It runs one turn at a time, and is the engine's waiter for its own row."""

    __slots__ = (
        "_answered",
        "_answers",
        "_dropped_answers",
        "_first_row",
        "_kit",
        "_known_answers",
        "_place",
        "_recent",
        "_request_ids",
        "_rested",
        "_tail",
        "_tails",
        "_then",
        "held",
        "is_awaited",
        "is_busy",
        "is_excused",
        "is_leaving",
        "is_logging",
        "key",
        "last_used",
        "left",
        "num_turns",
        "position",
        "used_at",
    )

    def __init__(self, kit: Kit, held: Held, first_row: int, now: float) -> None:
        """`now` is the monotonic clock's time."""
        self._kit = kit
        self.key = (held.row.owner, held.row.id)
        self._first_row = first_row
        self._place = 0  # in the ring
        self._then: Then | None = None
        self._rested: asyncio.Future[None] | None = None
        self.is_busy = False
        self.is_awaited = False  # a caller waits for it to leave: no new turn begins before that
        self.is_leaving = False  # no new turn begins any more
        self.is_excused = False  # its own stream takes it, for the ordinary path
        self.is_logging = False  # a turn is on its way to the log, with the current revision and number
        self.left = asyncio.Event()  # set when the session is back in the store
        self.last_used = now
        self.used_at = 0.0  # by the sessions' clock
        self._base(held)
        snapshot = kit.codec.decode(kit.ledger.current(held))
        kit.columns.load(first_row, snapshot)
        self.position = snapshot.position
        self._recent = list(snapshot.recent_ids)
        self._tail = snapshot.tail

    def __repr__(self) -> str:
        return f"Resident({self.held.row.id} at {self.position}, {self.num_turns} turns unwritten)"

    @property
    def first_row(self) -> int:
        return self._first_row

    def done(self) -> bool:
        """Tells the engine that the resident still waits: it must know when its row is free."""
        return False

    def set_result(self, found: tuple[list[int], list[float], bool]) -> None:
        self._deliver(found, None)

    def set_exception(self, error: Exception) -> None:
        self._deliver(None, error)

    def is_known(self, request_id: str) -> bool:
        """Whether the request was applied: its retry takes the ordinary path."""
        if request_id in self._request_ids or request_id in self._answered:
            return True
        return self._kit.ledger.is_remembered(self.held, request_id)

    def begin(self, plain: Plain, engine: Engine, then: Then) -> None:
        """Begins a turn. `then` receives the result, after which `finish` must be called. Raises Overloaded."""
        row, next_row = self._row(self._place), self._row(self._place + 1)
        engine.advance(self.key[0], row, next_row, plain.token_id, plain.num_candidates, self)
        self.is_busy = True
        self._then = then

    def finish(self) -> None:
        """Ends the turn, whatever its outcome."""
        self.is_busy = False
        if self._rested is not None and not self._rested.done():
            self._rested.set_result(None)
        self._rested = None

    async def rested(self) -> None:
        """Waits until no turn runs."""
        while self.is_busy:
            if self._rested is None:
                self._rested = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._rested)

    def note(self, plain: Plain, found: Found, now: float) -> Named:
        """Records that the turn has happened. Returns its answer."""
        ids, log_probabilities, _ = found
        self._place += 1
        self.num_turns += 1
        self.position += 1
        self.used_at = now
        self._recent.append(plain.token_id)
        self._tail = self._next_tail(plain.token_id)
        if self._tail:
            self._tails[self.num_turns] = self._tail
        if plain.request_id:
            self._request_ids[plain.request_id] = None
            self._note_answer(_Answer(self.num_turns, plain, ids, log_probabilities, self.position))
        return Named(ids, log_probabilities, self.position, 0)

    def sketch(self, plain: Plain, found: Found, now: float) -> LoggedTurn:
        """Returns the turn as an entry for the log, before it happens."""
        kit, row = self._kit, self.held.row
        state, hidden_H = kit.columns.save(self._row(self._place + 1))
        window = kit.penalty_window
        recent = (*self._recent, plain.token_id)[-window:] if window else ()
        snapshot = Snapshot(self.position + 1, state, hidden_H, recent, self._next_tail(plain.token_id))
        blob, number = kit.codec.encode(snapshot), self.num_turns + 1
        ids, log_probabilities = found[:2] if plain.request_id else ((), ())
        return LoggedTurn(
            row.owner, row.id, row.incarnation, row.revision, number, now, blob, plain, ids, log_probabilities
        )

    def change(self, now: float) -> Change:
        """Returns all turns since the last write, as one change."""
        kit, ledger = self._kit, self._kit.ledger
        num_kept = min(self.num_turns, ledger.retention.max_turns + 1)
        numbers = range(self.num_turns - num_kept + 1, self.num_turns + 1)
        boundaries = [Boundary(number, kit.codec.encode(self._snapshot(number))) for number in numbers]
        answers = [(one.number, one.plain.request_id, one.record()) for one in self._answers]
        names = list(self._request_ids)
        change = ledger.advance_many(self.held, boundaries, names, answers, self._dropped_answers)
        return change if self.used_at >= now else Change(change.position, change.put, change.drop, now - self.used_at)

    def written(self, row: Row, change: Change) -> None:
        """Notes that the store now has the session at `row`."""
        dropped = set(change.drop)
        parts = {name: part for name, part in self.held.parts.items() if name not in dropped}
        self._base(Held(row, parts | dict(change.put), self.held.epoch))
        window = self._kit.penalty_window
        self._recent = self._recent[-window:] if window else []

    def _base(self, held: Held) -> None:
        self.held = held
        self.num_turns = 0
        self._request_ids: dict[str, None] = {}  # of the turns since then, oldest first
        self._known_answers = self._kit.ledger.answer_keys(held)  # those still kept
        self._dropped_answers: list[str] = []
        self._answers: list[_Answer] = []  # the kept answers of the turns since then
        self._answered = {key.split("/", 2)[2] for key in self._known_answers}
        self._tails: dict[int, bytes] = {}

    def _row(self, place: int) -> int:
        return self._first_row + place % self._kit.columns.ring_size

    def _deliver(self, found: Any, error: Exception | None) -> None:
        then, self._then = self._then, None
        assert then is not None
        then(found, error)

    def _note_answer(self, answer: _Answer) -> None:
        """Keeps the answer and drops older ones, as single writes of the turns would."""
        retention = self._kit.ledger.retention
        count = self._kit.ledger.num_dropped(len(self._known_answers) + len(self._answers))
        if count:
            num_known = min(count, len(self._known_answers))
            self._dropped_answers += self._known_answers[:num_known]
            del self._known_answers[:num_known]
            del self._answers[: count - num_known]
        longest = max_plain_bytes(len(answer.ids))
        if longest <= retention.max_answer_bytes or len(answer.record()) <= retention.max_answer_bytes:
            self._answers.append(answer)

    def _next_tail(self, token_id: int) -> bytes:
        spelling = self._kit.tokenizer.token_bytes(token_id)
        if not self._tail and spelling and spelling[-1] < 0x80:
            return b""
        return pending_bytes(self._kit.tokenizer, self._tail, (token_id,))

    def _snapshot(self, number: int) -> Snapshot:
        """Returns the snapshot after the turn of that number."""
        back, window = self.num_turns - number, self._kit.penalty_window
        state, hidden_H = self._kit.columns.save(self._row(self._place - back))
        end = len(self._recent) - back
        recent = tuple(self._recent[max(0, end - window) : end]) if window else ()
        return Snapshot(self.position - back, state, hidden_H, recent, self._tails.get(number, b""))


def checked(plain: Plain, found: Found) -> Found:
    """Returns the wanted number of candidates. Raises ModelFailed."""
    ids, log_probabilities, is_finite = found
    if not is_finite:
        raise ModelFailed("the model produced a value that is not a number")
    if len(ids) <= plain.num_candidates:
        return found
    return ids[: plain.num_candidates], log_probabilities[: plain.num_candidates], is_finite
