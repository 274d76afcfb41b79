"""The sequences of one PredictMany stream: frames in, answers out in frames, whoever is done first.

A question waits for its place among `max_waiting_per_stream` and for the bytes that it and its answer take; closes do
not wait where they make room. All work comes through the gate, which shares the event loop among owners.
"""

import asyncio
import collections
from collections.abc import Callable
from typing import NamedTuple

from google.rpc import status_pb2

from carousel.errors import MessageInvalid, Overloaded
from carousel.rpc.backlog import Backlog
from carousel.rpc.frames import make_response, make_status
from carousel.rpc.gate import Gate
from carousel.rpc.prediction_bytes import PredictionBytes
from carousel.rpc.predictions import Predictions
from carousel.rpc.sequence import Question, Sequence
from carousel.sessions.checks import MAX_CANDIDATES
from carousel.sessions.endurance import finish
from carousel.sessions.requests import PredictionRequest
from carousel.sessions.resident import Named
from carousel.v1 import language_model_pb2 as wire

Refuse = Callable[[wire.PredictRequest, Exception], status_pb2.Status]  # counts it, and logs it if there are few
_MAX_ITEMS_PER_FRAME = 1024
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
_ANSWER_BYTES, _CANDIDATE_BYTES = 32, 20  # of answers, about
_PLAIN_ANSWER_BYTES = 256  # more cost their making, 35 us for 256 candidates
_MADE_BYTES_PER_COST = 1400
_DEFAULT = PredictionRequest()


class Frame(NamedTuple):
    """A PredictManyResponse."""

    content: bytes
    num_items: int


class Many:
    """Belongs to one call. `take` what comes, `end` when nothing more does, `next_frame` what goes, `close` at the end
    whatever happened. `rest` is told when all is answered and read, and when that is over."""

    def __init__(
        self,
        predictions: Predictions,
        encoder: PredictionBytes,
        limits: wire.Limits,
        owner: str,
        gate: Gate,
        refuse: Refuse,
        rest: Callable[[bool], None],
    ) -> None:
        self._predictions = predictions
        self._encoder = encoder
        self._owner = owner
        self._gate = gate
        self._refuse = refuse
        self._rest = rest
        self._max_waiting, self._max_bytes = limits.max_waiting_per_stream, limits.max_message_bytes
        self._max_sequences = limits.max_sequences_per_stream
        self._sequences: dict[int, Sequence] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._backlog = Backlog(self._max_sequences)
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

    def answer(self, tag: int, question: Question, outcome: Named | wire.PredictResponse) -> None:
        content = self._encoder.encode(outcome) if isinstance(outcome, Named) else outcome.SerializeToString()
        self._put(make_response(tag, content), question)

    def refuse(self, tag: int, question: Question, error: Exception) -> None:
        self._num_refused += 1
        self._gate.charge(self._owner, _REFUSAL_COST)
        self._put(make_status(tag, self._refuse(question.request, error).SerializeToString()), question)

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
                num_answer_bytes = _expect(item.request)
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
            if len(self._sequences) >= self._max_sequences:
                text = f"{len(self._sequences)} sequences are open on this stream"
                error = Overloaded(text, limit="max_sequences_per_stream", retry_seconds=1.0)
                return self.refuse(tag, question, error)
            sequence = self._sequences[tag] = Sequence(self, tag, self._predictions)
        sequence.ask(question)

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


def _expect(request: wire.PredictRequest) -> int:
    """How many bytes its answer will have, about."""
    num_candidates = request.k or _DEFAULT.num_candidates
    return _ANSWER_BYTES + _CANDIDATE_BYTES * num_candidates if 0 < num_candidates <= MAX_CANDIDATES else _ANSWER_BYTES
