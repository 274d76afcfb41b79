"""A session that a Predict stream holds: its present lies in the engine's columns, not in the store.

It stays taken in the store meanwhile. What happened since is kept as it came, a few numbers a turn, and becomes bytes
when it is written: at once where a turn must be written before it is answered, else when somebody else wants the
session, when it was idle for a moment, or when there is much of it.
"""

import asyncio
import collections
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from carousel.bundle.tokenizer import Tokenizer
from carousel.engine.columns import Columns
from carousel.engine.engine import Engine
from carousel.errors import ModelFailed
from carousel.records import record
from carousel.sessions.answers import Record, answer_room, fingerprint, write_record
from carousel.sessions.ledger import Boundary, Ledger
from carousel.sessions.requests import Prediction, PredictionRequest, Standing
from carousel.sessions.text import pending_bytes
from carousel.state.codec import SnapshotCodec
from carousel.state.store import Change, Held, Row
from carousel.turns import Candidate, Snapshot


@record(frozen=True, slots=True)
class Plain:
    """The turn that a resident can take: one token in, the likeliest next ones out."""

    token_id: int
    num_candidates: int
    request_id: str = ""
    expected_position: int | None = None


class Named(NamedTuple):
    """What a plain turn was answered: likeliest first; log-probabilities in nats."""

    ids: Sequence[int]
    log_probabilities: Sequence[float]
    position: int
    durable_position: int


class Kit(NamedTuple):
    """What all residents use."""

    columns: Columns
    ledger: Ledger
    codec: SnapshotCodec
    tokenizer: Tokenizer
    penalty_window: int


Then = Callable[[Any, Exception | None], None]  # what was found, or why nothing was


class _Answer(NamedTuple):
    number: int  # of the turn
    token_id: int
    num_candidates: int
    ids: Sequence[int]
    log_probabilities: Sequence[float]
    position: int


class Resident:
    """Is the engine's waiter for its own row. One turn at a time."""

    __slots__ = (
        "_answered",
        "_answers",
        "_delivered",
        "_first_row",
        "_kit",
        "_place",
        "_recent",
        "_request_ids",
        "_rested",
        "_tail",
        "_tails",
        "_then",
        "_waiter",
        "came_at",
        "held",
        "is_awaited",
        "is_busy",
        "is_excused",
        "is_leaving",
        "key",
        "last_used",
        "left",
        "num_turns",
        "position",
        "used_at",
    )

    def __init__(self, kit: Kit, held: Held, first_row: int, now: float) -> None:
        """`now` is of the monotonic clock."""
        self._kit = kit
        self.key = (held.row.owner, held.row.id)
        self._first_row = first_row
        self._place = 0  # in the ring
        self._waiter: asyncio.Future[Any] | None = None
        self._then: Then | None = None
        self._rested: asyncio.Future[None] | None = None
        self._delivered = True
        self.is_busy = False
        self.is_awaited = False  # somebody waits for it to leave: no turn is begun before that
        self.is_leaving = False  # nothing may be begun any more
        self.is_excused = False  # the stream that holds it wants it itself, in the ordinary way
        self.left = asyncio.Event()  # it is in the store again
        self.came_at = self.last_used = now
        self.used_at = 0.0  # of the sessions' clock
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
        """The engine's question whether anybody waits: the resident does, to know when its row is free."""
        return False

    def set_result(self, found: tuple[list[int], list[float], bool]) -> None:
        self._deliver(found, None)

    def set_exception(self, error: Exception) -> None:
        self._deliver(None, error)

    def is_known(self, request_id: str) -> bool:
        """Whether the request was applied: such a turn goes the ordinary way."""
        if request_id in self._request_ids or request_id in self._answered:
            return True
        return self._kit.ledger.is_remembered(self.held, request_id)

    def begin(self, plain: Plain, engine: Engine, then: Then | None = None) -> None:
        """A turn. `finish` must follow, whatever comes of it: `then` is told what was found, or `found` is awaited.
        Raises Overloaded."""
        row, next_row = self._row(self._place), self._row(self._place + 1)
        engine.advance(self.key[0], row, next_row, plain.token_id, plain.num_candidates, self)
        self.is_busy, self._delivered = True, False
        self._then = then
        self._waiter = engine.create_future() if then is None else None

    async def found(self) -> tuple[list[int], list[float], bool]:
        """What the engine found. To be cancelled gives the turn up."""
        assert self._waiter is not None
        found: tuple[list[int], list[float], bool] = await self._waiter
        return found

    def finish(self) -> None:
        """The turn's caller is done with it, whatever came of it; also if none was begun."""
        if self._delivered:
            self._rest()

    async def rested(self) -> None:
        """Until no turn runs."""
        while self.is_busy:
            if self._rested is None:
                self._rested = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._rested)

    def note(self, plain: Plain, found: tuple[list[int], list[float], bool], now: float) -> Named:
        """The turn has happened. Raises ModelFailed, and then it has not."""
        ids, log_probabilities, is_finite = found
        if not is_finite:
            raise ModelFailed("the model produced a value that is not a number")
        if len(ids) > plain.num_candidates:
            ids, log_probabilities = ids[: plain.num_candidates], log_probabilities[: plain.num_candidates]
        self._place += 1
        self.num_turns += 1
        self.position += 1
        self.used_at = now
        self._recent.append(plain.token_id)
        self._note_tail(plain.token_id)
        if plain.request_id:
            self._request_ids[plain.request_id] = None
            self._answers.append(
                _Answer(self.num_turns, plain.token_id, plain.num_candidates, ids, log_probabilities, self.position)
            )
        return Named(ids, log_probabilities, self.position, 0)

    def change(self, now: float) -> Change:
        """All turns since the session was last written, as one change."""
        kit, ledger = self._kit, self._kit.ledger
        num_kept = min(self.num_turns, ledger.retention.max_turns + 1)
        numbers = range(self.num_turns - num_kept + 1, self.num_turns + 1)
        boundaries = [Boundary(number, kit.codec.encode(self._snapshot(number))) for number in numbers]
        names = list(self._request_ids)
        first = len(names) - len(self._answers)
        answers = [
            (one.number, name, self._record(one)) for name, one in zip(names[first:], self._answers, strict=True)
        ]
        change = ledger.advance_many(self.held, boundaries, names, answers)
        return change if self.used_at >= now else Change(change.position, change.put, change.drop, now - self.used_at)

    def written(self, row: Row, change: Change) -> None:
        """The session stands at `row` in the store now."""
        parts = {name: part for name, part in self.held.parts.items() if name not in set(change.drop)}
        self._base(Held(row, parts | dict(change.put), self.held.epoch))
        window = self._kit.penalty_window
        self._recent = self._recent[-window:] if window else []

    def _base(self, held: Held) -> None:
        self.held = held
        self.num_turns = 0
        self._request_ids: dict[str, None] = {}  # of the turns since, oldest first
        self._answers: collections.deque[_Answer] = collections.deque(maxlen=self._kit.ledger.retention.max_answers)
        self._answered = {key.split("/", 2)[2] for key in held.parts if key.startswith("answer/")}
        self._tails: dict[int, bytes] = {}

    def _row(self, place: int) -> int:
        return self._first_row + place % self._kit.columns.ring_size

    def _deliver(self, found: Any, error: Exception | None) -> None:
        self._delivered = True
        if self._then is not None:
            then, self._then = self._then, None
            return then(found, error)
        waiter, self._waiter = self._waiter, None
        assert waiter is not None
        if waiter.done():
            self._rest()  # whoever asked is gone: nothing has happened
        elif error is not None:
            waiter.set_exception(error)
        else:
            waiter.set_result(found)

    def _rest(self) -> None:
        self.is_busy = False
        if self._rested is not None and not self._rested.done():
            self._rested.set_result(None)
        self._rested = None

    def _note_tail(self, token_id: int) -> None:
        spelling = self._kit.tokenizer.token_bytes(token_id)
        if self._tail or not spelling or spelling[-1] >= 0x80:
            self._tail = pending_bytes(self._kit.tokenizer, self._tail, (token_id,))
            if self._tail:
                self._tails[self.num_turns] = self._tail

    def _snapshot(self, number: int) -> Snapshot:
        """After the turn of that number."""
        back, window = self.num_turns - number, self._kit.penalty_window
        state, hidden_H = self._kit.columns.save(self._row(self._place - back))
        end = len(self._recent) - back
        recent = tuple(self._recent[max(0, end - window) : end]) if window else ()
        return Snapshot(self.position - back, state, hidden_H, recent, self._tails.get(number, b""))

    def _record(self, answer: _Answer) -> bytes:
        """Empty when it is too long to be kept."""
        request = PredictionRequest((answer.token_id,), answer.num_candidates)
        candidates = tuple(map(Candidate, answer.ids, answer.log_probabilities))
        prediction = Prediction(candidates, (), Standing(answer.position, 0))
        content = write_record(Record(fingerprint(request), prediction))
        return content if len(content) <= answer_room(self._kit.ledger.retention, request) else b""
