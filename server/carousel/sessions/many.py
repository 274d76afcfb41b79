"""Many sequences on one stream: frames come in, and answers go out in frames, as soon as each is ready.

A question waits for a place among `max_waiting` and for the bytes that it and its answer take. A close that makes room
does not wait. All work passes the gate, which shares the event loop among owners.
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
from carousel.sessions.messages import Format, Message
from carousel.sessions.requests import Prediction
from carousel.sessions.resident import Named
from carousel.sessions.sequence import Question, Sequence
from carousel.settings import Settings
from carousel.shares import Shares

_MAX_ITEMS_PER_FRAME = 1024
_MAX_SEQUENCES = 2**18  # on all streams; each takes 450 bytes while it carries nothing
_MAX_FRAME_BYTES = 2**20  # one answer alone may be larger; clients accept 4 MiB by default

# In the gate's unit.
_PIECE_COST = 16.0  # the most that is done at once, about
_LOOK_COST = 0.1  # to look at an item
_REFUSAL_COST = 3.0
_CLOSE_COST = 1.0  # to begin a close; the sequence pays the rest
_FRAME_COST = 4.0  # to read or write a frame, without its items
_BYTES_PER_COST = 2**14  # copied, in or out
_ITEM_BYTES = 32  # a small item's size, to estimate the number of items in a frame
_CLOSED_PER_PIECE = 16
_PLAIN_ANSWER_BYTES = 256  # a larger answer also costs its making, 35 us for 256 candidates
_MADE_BYTES_PER_COST = 1400


@dataclass(frozen=True, slots=True)
class ManyBounds:
    """The bounds of one stream."""

    max_sequences: int
    max_waiting: int  # requests that are unanswered or unread
    max_bytes: int  # for what comes in, and again for what goes out

    @classmethod
    def of(cls, settings: Settings) -> "ManyBounds":
        return cls(
            max_sequences=settings.max_sequences_per_stream,
            max_waiting=settings.max_waiting_per_stream,
            max_bytes=settings.max_message_bytes,
        )


class Frame(NamedTuple):
    """Several answers, as bytes."""

    content: bytes
    num_items: int


class Many:
    """The sequences of one call of one owner. `receive` takes a frame, `end` says that no more will come, `next_frame`
    returns answers, and `close` always comes last. It calls `rest` when all is answered and read, and when that is
    over, and `note` for each refused question. `open_sequences` counts those of all streams."""

    def __init__(
        self,
        format: Format,
        converse: Callable[[], Conversation],
        bounds: ManyBounds,
        owner: str,
        gate: Gate,
        open_sequences: Shares,
        rest: Callable[[bool], None],
        note: Callable[[Message, Exception], None],
    ) -> None:
        self._format = format
        self._converse = converse
        self._owner = owner
        self._gate = gate
        self._open_sequences = open_sequences
        self._rest = rest
        self._note = note
        self._max_waiting, self._max_bytes = bounds.max_waiting, bounds.max_bytes
        self._max_sequences = bounds.max_sequences
        self._sequences: dict[int, Sequence] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._backlog = Backlog(format.read_item, self._max_sequences)
        self._admitting: asyncio.Task[None] | None = None  # admits what had no room at first
        self._answers: collections.deque[bytes] = collections.deque()
        self._changed = asyncio.Event()  # there are answers, or no more will come
        self._roomy = asyncio.Event()
        self._is_ended = False
        self._is_resting = True
        self._num_bytes = 0  # of unanswered questions
        self._num_expected_bytes = 0  # of their answers, about
        self._num_unread_bytes = 0  # of unread answers
        self.num_waiting = 0  # questions that are unanswered, or whose answers are unread
        self.num_answered = 0
        self._num_refused = 0
        rest(True)

    def __repr__(self) -> str:
        return f"Many({len(self._sequences)} sequences, {self.num_waiting} questions waiting)"

    async def receive(self, content: bytes) -> None:
        """Takes a frame. Returns when the stream may read the next frame. Raises MessageInvalid."""
        self._backlog.add(content)
        self._look_whether_resting()
        await self._gate.enter(self._owner, _FRAME_COST)
        if self._admitting is None:
            if await self._admit_what_fits():
                return
            self._admitting = asyncio.create_task(self._admit_the_rest())
        await self._close_ahead()
        await self._until(lambda: self._backlog.num_bytes < self._max_bytes)

    async def end(self) -> None:
        """Says that no more frames will come."""
        if self._admitting is not None:
            await asyncio.wait([self._admitting])
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
        self._note(question.request, error)
        self._put(self._format.write_refusal(tag, error), question)

    def drop(self, question: Question) -> None:
        self._give_back(question)
        self._leave(1)

    async def next_frame(self) -> Frame | None:
        """Returns the answers since the last frame, or None when all is answered and no more questions will come."""
        while not self._answers:
            if self._is_ended and not self.num_waiting:
                return None
            self._changed.clear()
            await self._changed.wait()
        await self._gate.enter(self._owner, _FRAME_COST)
        return self._make_frame()

    def written(self, frame: Frame) -> None:
        """Notes that the frame was sent."""
        self.num_answered += frame.num_items
        self._leave(frame.num_items)

    async def close(self) -> None:
        """Closes every sequence, even if the caller is cancelled again."""
        for sequence in self._sequences.values():
            sequence.is_over = True
        await finish(self._close_all())

    async def _admit_what_fits(self) -> bool:
        """Admits items while there is room. Returns whether the backlog is empty."""
        while self._backlog:
            if not self._has_room():
                return False
            cost = min(_PIECE_COST, 1.0 + self._backlog.num_bytes / _ITEM_BYTES)
            await self._gate.enter(self._owner, cost)
            self._gate.charge(self._owner, self._admit_piece(cost) - cost)
        self._look_whether_resting()
        return True

    def _admit_piece(self, max_cost: float) -> float:
        """Admits items up to the cost. Returns the actual cost, without refusals, which are charged on their own."""
        cost, backlog, num_refused = 0.0, self._backlog, self._num_refused
        while backlog and self._has_room():
            if cost + _REFUSAL_COST * (self._num_refused - num_refused) >= max_cost:
                break
            item, num_bytes = backlog.pop()
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

    async def _admit_the_rest(self) -> None:
        try:
            while not await self._admit_what_fits():
                await self._until(self._has_room)
        except MessageInvalid:
            pass  # `_close_ahead` raises it too
        finally:
            self._admitting = None

    async def _close_ahead(self) -> None:
        """Closes the tags whose closes are in the backlog. Raises MessageInvalid."""
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
        """Returns the error for one sequence too many. An owner always has its share of the bound on all streams."""
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
        if self._admitting is not None:
            self._admitting.cancel()
            await asyncio.wait([self._admitting])
        for number, tag in enumerate(list(self._sequences), 1):
            self._close(tag)
            if number % _CLOSED_PER_PIECE == 0:
                await self._gate.enter(self._owner, _PIECE_COST)
        if self._closing:
            await asyncio.wait(self._closing)

    def _give_back(self, question: Question) -> None:
        """Frees the bytes that the question took."""
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
