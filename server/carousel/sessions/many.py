"""Many sequences on one stream: frames in, answers out in frames, whoever is done first.

A question waits for its place among `max_waiting` and for the bytes that it and its answer take; closes do
not wait where they make room. All work comes through the gate, which shares the event loop among owners.
"""

import asyncio
import collections
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from carousel.errors import MessageInvalid, Overloaded
from carousel.sessions.backlog import Backlog
from carousel.sessions.conversation import Conversation
from carousel.sessions.endurance import finish
from carousel.sessions.gate import Gate
from carousel.sessions.messages import Format
from carousel.sessions.requests import Prediction
from carousel.sessions.resident import Named
from carousel.sessions.sequence import Question, Sequence
from carousel.settings import Settings
from carousel.shares import Shares

_MAX_ITEMS_PER_FRAME = 1024
_MAX_SEQUENCES = 2**18  # of all streams: 450 bytes each while nothing is carried
_MAX_FRAME_BYTES = 2**20  # but one answer may be larger; clients accept 4 MiB unless told otherwise

# In the gate's unit.
_PIECE_COST = 16.0  # the most that is taken at once, about
_LOOK_COST = 0.1  # of an item that is only looked at
_REFUSAL_COST = 3.0
_CLOSE_COST = 1.0  # of beginning to; the rest is the sequence's
_FRAME_COST = 4.0  # of reading or writing one, without its items
_BYTES_PER_COST = 2**14  # of what is copied, in or out
_ITEM_BYTES = 32  # of a small item, from which it is guessed how many a frame has
_CLOSED_PER_PIECE = 16
_PLAIN_ANSWER_BYTES = 256  # more cost their making, 35 us for 256 candidates
_MADE_BYTES_PER_COST = 1400


@dataclass(frozen=True, slots=True)
class ManyBounds:
    """Of one stream."""

    max_sequences: int
    max_waiting: int  # requests that are unanswered or unread
    max_bytes: int  # of what came, and of what goes

    @classmethod
    def of(cls, settings: Settings) -> "ManyBounds":
        return cls(
            max_sequences=settings.max_sequences_per_stream,
            max_waiting=settings.max_waiting_per_stream,
            max_bytes=settings.max_message_bytes,
        )


class Frame(NamedTuple):
    """Several answers."""

    content: bytes
    num_items: int


class Many:
    """Belongs to one call of one owner. `take` what comes, `end` when nothing more does, `next_frame` what goes,
    `close` at the end whatever happened. `rest` is told when all is answered and read, and when that is over.
    `open_sequences` are those of all streams."""

    def __init__(
        self,
        format: Format,
        converse: Callable[[], Conversation],
        bounds: ManyBounds,
        owner: str,
        gate: Gate,
        open_sequences: Shares,
        rest: Callable[[bool], None],
    ) -> None:
        self._format = format
        self._converse = converse
        self._owner = owner
        self._gate = gate
        self._open_sequences = open_sequences
        self._rest = rest
        self._max_waiting, self._max_bytes = bounds.max_waiting, bounds.max_bytes
        self._max_sequences = bounds.max_sequences
        self._sequences: dict[int, Sequence] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._backlog = Backlog(format.read_item, self._max_sequences)
        self._taking: asyncio.Task[None] | None = None  # what there was no room for at first
        self._answers: collections.deque[bytes] = collections.deque()
        self._changed = asyncio.Event()  # answers have come, or none will
        self._roomy = asyncio.Event()
        self._is_ended = False
        self._is_resting = True
        self._num_bytes = 0  # of questions that are not answered
        self._num_expected_bytes = 0  # of their answers, about
        self._num_unread_bytes = 0  # of answers that are not read
        self.num_waiting = 0  # questions that are not answered, or whose answers are not read
        self.num_answered = 0
        self._num_refused = 0
        rest(True)

    def __repr__(self) -> str:
        return f"Many({len(self._sequences)} sequences, {self.num_waiting} questions waiting)"

    async def take(self, content: bytes) -> None:
        """A frame; returns when the stream may be read on. Raises MessageInvalid."""
        self._backlog.add(content)
        self._look_whether_resting()
        await self._gate.enter(self._owner, _FRAME_COST)
        if self._taking is None:
            if await self._take_what_fits():
                return
            self._taking = asyncio.create_task(self._take_the_rest())
        await self._close_ahead()
        await self._until(lambda: self._backlog.num_bytes < self._max_bytes)

    async def end(self) -> None:
        """Nothing more will come."""
        if self._taking is not None:
            await asyncio.wait([self._taking])
        self._is_ended = True
        self._changed.set()

    async def enter(self, cost: float) -> None:
        await self._gate.enter(self._owner, cost)

    async def until_read(self) -> None:
        await self._until(lambda: self._num_unread_bytes < self._max_bytes)

    def answer(self, tag: int, question: Question, outcome: Named | Prediction) -> None:
        self._put(self._format.write(tag, outcome), question)

    def refuse(self, tag: int, question: Question, error: Exception) -> None:
        self._num_refused += 1
        self._gate.charge(self._owner, _REFUSAL_COST)
        self._put(self._format.write_refusal(tag, question.request, error), question)

    def drop(self, question: Question) -> None:
        self._give_back(question)
        self._leave(1)

    async def next_frame(self) -> Frame | None:
        """What was answered since the last one; None when all is answered and nothing more will come."""
        while not self._answers:
            if self._is_ended and not self.num_waiting:
                return None
            self._changed.clear()
            await self._changed.wait()
        await self._gate.enter(self._owner, _FRAME_COST)
        return self._make_frame()

    def written(self, frame: Frame) -> None:
        """The frame has gone out."""
        self.num_answered += frame.num_items
        self._leave(frame.num_items)

    async def close(self) -> None:
        """Every sequence is over, also when the caller is cancelled again."""
        for sequence in self._sequences.values():
            sequence.is_over = True
        await finish(self._close_all())

    async def _take_what_fits(self) -> bool:
        """Whether that was all."""
        while self._backlog:
            if not self._has_room():
                return False
            cost = min(_PIECE_COST, 1.0 + self._backlog.num_bytes / _ITEM_BYTES)
            await self._gate.enter(self._owner, cost)
            self._gate.charge(self._owner, self._take_piece(cost) - cost)
        self._look_whether_resting()
        return True

    def _take_piece(self, max_cost: float) -> float:
        """What it came to, beside refusals, which are charged for themselves."""
        cost, backlog, num_refused = 0.0, self._backlog, self._num_refused
        while backlog and self._has_room():
            if cost + _REFUSAL_COST * (self._num_refused - num_refused) >= max_cost:
                break
            item, num_bytes = backlog.take()
            cost += num_bytes / _BYTES_PER_COST
            if item is None:
                cost += _LOOK_COST
            elif item.close:
                cost += _CLOSE_COST
                self._close(item.tag)
            else:
                num_answer_bytes = self._format.num_answer_bytes(item.request)
                cost += 1.0 + max(0, num_answer_bytes - _PLAIN_ANSWER_BYTES) / _MADE_BYTES_PER_COST
                self._ask(item.tag, Question(item.request, num_bytes, num_answer_bytes))
        return cost

    async def _take_the_rest(self) -> None:
        try:
            while not await self._take_what_fits():
                await self._until(self._has_room)
        except MessageInvalid:
            pass  # whoever looks ahead meets it too
        finally:
            self._taking = None

    async def _close_ahead(self) -> None:
        """What the backlog closes. Raises MessageInvalid."""
        while not self._backlog.is_seen:
            await self._gate.enter(self._owner, _PIECE_COST)
            cost = 0.0
            while cost < _PIECE_COST and not self._backlog.is_seen:
                tag, num_bytes = self._backlog.look_ahead()
                cost += _LOOK_COST + num_bytes / _BYTES_PER_COST
                if tag is not None:
                    cost += _CLOSE_COST
                    self._close(tag)
            self._gate.charge(self._owner, cost - _PIECE_COST)

    def _ask(self, tag: int, question: Question) -> None:
        self.num_waiting += 1
        self._num_bytes += question.num_bytes
        self._num_expected_bytes += question.num_answer_bytes
        sequence = self._sequences.get(tag)
        if sequence is None:
            if (refusal := self._refuse_another()) is not None:
                return self.refuse(tag, question, refusal)
            self._open_sequences.change(self._owner, 1)
            sequence = self._sequences[tag] = Sequence(self, tag, self._converse(), self._format)
        sequence.ask(question)

    def _refuse_another(self) -> Overloaded | None:
        """Why one more sequence is too many. Of the bound for all streams an owner has his share in any case."""
        if len(self._sequences) >= self._max_sequences:
            text = f"{len(self._sequences)} sequences are open on this stream"
            return Overloaded(text, limit="max_sequences_per_stream", retry_seconds=1.0)
        everybody, owner = self._open_sequences, self._owner
        if everybody.total >= _MAX_SEQUENCES and everybody.used(owner) >= everybody.share(_MAX_SEQUENCES, owner):
            text = f"{everybody.total} sequences are open on all streams"
            return Overloaded(text, limit="max_sequences", retry_seconds=1.0)
        return None

    def _put(self, answer: bytes, question: Question) -> None:
        self._give_back(question)
        self._answers.append(answer)
        self._num_unread_bytes += len(answer)
        self._changed.set()

    def _make_frame(self) -> Frame:
        items: list[bytes] = []
        num_bytes = 0
        while self._answers and len(items) < _MAX_ITEMS_PER_FRAME:
            num_bytes += len(self._answers[0])
            if items and num_bytes > _MAX_FRAME_BYTES:
                break
            items.append(self._answers.popleft())
        content = b"".join(items)
        self._num_unread_bytes -= len(content)
        self._gate.charge(self._owner, _LOOK_COST * len(items) + len(content) / _BYTES_PER_COST)
        return Frame(content, len(items))

    def _close(self, tag: int) -> None:
        sequence = self._sequences.pop(tag, None)
        if sequence is not None:
            self._open_sequences.change(self._owner, -1)
            sequence.is_over = True
            task = asyncio.create_task(sequence.close())
            self._closing.add(task)
            task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        self._roomy.set()

    async def _close_all(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            await asyncio.wait([self._taking])
        for number, tag in enumerate(list(self._sequences), 1):
            self._close(tag)
            if number % _CLOSED_PER_PIECE == 0:
                await self._gate.enter(self._owner, _PIECE_COST)
        if self._closing:
            await asyncio.wait(self._closing)

    def _give_back(self, question: Question) -> None:
        """What it took."""
        self._num_bytes -= question.num_bytes
        self._num_expected_bytes -= question.num_answer_bytes
        self._roomy.set()

    def _leave(self, num_items: int) -> None:
        self.num_waiting -= num_items
        self._roomy.set()
        if not self.num_waiting:
            self._changed.set()
            self._look_whether_resting()

    def _look_whether_resting(self) -> None:
        is_resting = not self.num_waiting and not self._backlog
        if is_resting != self._is_resting:
            self._is_resting = is_resting
            self._rest(is_resting)

    def _has_room(self) -> bool:
        return (
            self.num_waiting < self._max_waiting
            and self._num_bytes < self._max_bytes
            and self._num_unread_bytes + self._num_expected_bytes < self._max_bytes
            and (not self._closing or len(self._sequences) + len(self._closing) <= self._max_sequences)
        )

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self._roomy.clear()
            await self._roomy.wait()
