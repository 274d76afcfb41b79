"""The sequences of one PredictMany stream: items in, answers out in frames, whoever is done first.

Each tag is a conversation of its own. What a held session can answer at once costs no task; all else of a tag runs in a
task of its own, one item after the other.
"""

import asyncio
import collections
from collections.abc import Callable
from typing import NamedTuple

from google.rpc import status_pb2

from carousel.bundle.tokenizer import Tokenizer
from carousel.errors import Overloaded
from carousel.rpc import convert, lengths
from carousel.rpc.prediction_bytes import PredictionBytes
from carousel.sessions.conversation import Conversation
from carousel.sessions.endurance import finish
from carousel.sessions.resident import Named
from carousel.sessions.service import Sessions
from carousel.v1 import language_model_pb2 as wire

Refuse = Callable[[wire.PredictRequest, Exception], status_pb2.Status]  # counts and logs it
_MAX_ITEMS_PER_FRAME = 1024
_MAX_FRAME_BYTES = 2**20  # but one answer may be larger; clients accept 4 MiB unless told otherwise
_ITEMS_PER_SLICE = 64  # of a frame, taken without a pause
_CLOSED_PER_SLICE = 16  # sequences; each may have much to write


class _Frame:
    """What came in one message, kept as a whole while one of its items is not answered."""

    __slots__ = ("num_bytes", "num_items")

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self.num_items = 0


class _Item(NamedTuple):
    request: wire.PredictRequest
    frame: _Frame


class Many:
    """Belongs to one call. `take` what comes, `next_frame` what goes, `close` at the end whatever happened. `rest` is
    told when all is answered and read, and when that is over."""

    def __init__(
        self,
        sessions: Sessions,
        encoder: PredictionBytes,
        limits: wire.Limits,
        owner: str,
        refuse: Refuse,
        rest: Callable[[bool], None],
    ) -> None:
        self.sessions = sessions
        self.limits = limits
        self.owner = owner
        self._encoder = encoder
        self._refuse = refuse
        self._rest = rest
        self._max_waiting, self._max_bytes = limits.max_waiting_per_stream, limits.max_message_bytes
        self._sequences: dict[int, _Sequence] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._answers: collections.deque[tuple[int, bytes | wire.PredictResponse | status_pb2.Status]]
        self._answers = collections.deque()
        self._changed = asyncio.Event()  # answers have come, or none will
        self._roomy = asyncio.Event()
        self._is_ended = False
        self._num_frame_bytes = 0  # of frames with items that are not answered
        self._num_answer_bytes = 0  # of answers that are not read
        self.num_waiting = 0  # items that are not answered, or whose answers are not read
        self.num_answered = 0
        rest(True)

    def __repr__(self) -> str:
        return f"Many({len(self._sequences)} sequences, {self.num_waiting} items waiting)"

    @property
    def tokenizer(self) -> Tokenizer:
        return self.sessions.tokenizer

    async def take(self, message: wire.PredictManyRequest) -> None:
        """Item by item, as there is room; returns when the stream may be read on."""
        frame = _Frame(message.ByteSize())
        self._num_frame_bytes += frame.num_bytes
        frame.num_items = 1  # as long as it is being taken
        for number, item in enumerate(message.items, 1):
            if item.close:
                self._close(item.tag)
            else:
                await self._until(self._has_room_for_item)
                self._ask(item.tag, _Item(item.request, frame))
            if number % _ITEMS_PER_SLICE == 0:
                await asyncio.sleep(0)
        self.done(frame)
        await self._until(self._has_room_for_frame)

    def end(self) -> None:
        """Nothing more will come."""
        self._is_ended = True
        self._changed.set()

    def answer(self, tag: int, frame: _Frame, outcome: Named | wire.PredictResponse | status_pb2.Status) -> None:
        answer = self._encoder.encode(outcome) if type(outcome) is Named else outcome
        self._num_answer_bytes += _weigh(answer)
        self._answers.append((tag, answer))
        self.done(frame)
        self._changed.set()

    def refuse(self, tag: int, item: _Item, error: Exception) -> None:
        self.answer(tag, item.frame, self._refuse(item.request, error))

    def drop(self, item: _Item) -> None:
        """It will not be answered."""
        self.done(item.frame)
        self._leave(1)

    def done(self, frame: _Frame) -> None:
        """With one of its items."""
        frame.num_items -= 1
        if not frame.num_items:
            self._num_frame_bytes -= frame.num_bytes
            self._roomy.set()

    async def next_frame(self) -> wire.PredictManyResponse | None:
        """What was answered since the last one; None when all is answered and nothing more will come."""
        while not self._answers:
            if self._is_ended and not self.num_waiting:
                return None
            self._changed.clear()
            await self._changed.wait()
        frame, num_bytes = wire.PredictManyResponse(), 0
        while self._answers and len(frame.items) < _MAX_ITEMS_PER_FRAME:
            tag, answer = self._answers[0]
            num_bytes += _weigh(answer)
            if frame.items and num_bytes > _MAX_FRAME_BYTES:
                break
            self._answers.popleft()
            self._num_answer_bytes -= _weigh(answer)
            item = frame.items.add(tag=tag)
            if type(answer) is bytes:
                item.response.MergeFromString(answer)
            elif isinstance(answer, wire.PredictResponse):
                item.response.CopyFrom(answer)
            else:
                item.status.CopyFrom(answer)
        return frame

    def written(self, frame: wire.PredictManyResponse) -> None:
        """The frame has gone out."""
        self.num_answered += len(frame.items)
        self._leave(len(frame.items))

    async def close(self) -> None:
        """Every sequence is over, also when the caller is cancelled again."""
        for sequence in self._sequences.values():
            sequence.is_over = True
        await finish(self._close_all())

    def _ask(self, tag: int, item: _Item) -> None:
        if not self.num_waiting:
            self._rest(False)
        self.num_waiting += 1
        item.frame.num_items += 1
        sequence = self._sequences.get(tag)
        if sequence is None:
            if len(self._sequences) >= self.limits.max_sequences_per_stream:
                text = f"{len(self._sequences)} sequences are open on this stream"
                error = Overloaded(text, limit="max_sequences_per_stream", retry_seconds=1.0)
                return self.refuse(tag, item, error)
            sequence = self._sequences[tag] = _Sequence(self, tag)
        sequence.ask(item)

    def _close(self, tag: int) -> None:
        sequence = self._sequences.pop(tag, None)
        if sequence is not None:
            task = asyncio.create_task(sequence.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _close_all(self) -> None:
        for number, tag in enumerate(list(self._sequences), 1):
            self._close(tag)
            if number % _CLOSED_PER_SLICE == 0:
                await asyncio.sleep(0)
        if self._closing:
            await asyncio.wait(self._closing)

    def _leave(self, num_items: int) -> None:
        self.num_waiting -= num_items
        self._roomy.set()
        if not self.num_waiting:
            self._rest(True)
            self._changed.set()

    def _has_room_for_item(self) -> bool:
        return self.num_waiting < self._max_waiting and self._num_answer_bytes < self._max_bytes

    def _has_room_for_frame(self) -> bool:
        return self._has_room_for_item() and self._num_frame_bytes < self._max_bytes

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self._roomy.clear()
            await self._roomy.wait()


class _Sequence:
    """One tag. It is the sink of what its session answers at once."""

    __slots__ = ("_asked", "_many", "_tag", "_talk", "_task", "_waiting", "is_named", "is_over")

    def __init__(self, many: Many, tag: int) -> None:
        self._many = many
        self._tag = tag
        self._talk: Conversation = many.sessions.converse(many.owner)
        self._waiting: collections.deque[_Item] = collections.deque()
        self._asked: _Item | None = None  # on its way without a task
        self._task: asyncio.Task[None] | None = None
        self.is_named = False
        self.is_over = False

    def ask(self, item: _Item) -> None:
        if self._task is None and self._asked is None and self.is_named:
            plain = convert.to_plain(item.request)
            if plain is not None:
                self._asked = item
                if self._talk.begin_plain(plain, self):
                    return
                self._asked = None
        self._waiting.append(item)
        self._go_on()

    def put(self, outcome: Named | Exception | None) -> None:
        item, self._asked = self._asked, None
        assert item is not None
        if self.is_over:
            self._many.drop(item)
        elif isinstance(outcome, Exception):
            self._many.refuse(self._tag, item, outcome)
        elif outcome is not None:
            self._many.answer(self._tag, item.frame, outcome)
        else:
            self._waiting.appendleft(item)
        self._go_on()

    async def close(self) -> None:
        """What is not answered is given up."""
        self.is_over = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        while self._waiting:
            self._many.drop(self._waiting.popleft())
        await self._talk.close()

    def _go_on(self) -> None:
        if self._waiting and self._task is None and self._asked is None and not self.is_over:
            self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._waiting and not self.is_over:
                item = self._waiting.popleft()
                try:
                    answer = await self._answer(item.request)
                except asyncio.CancelledError:
                    self._many.drop(item)
                    raise
                except Exception as error:
                    self._many.refuse(self._tag, item, error)
                else:
                    self._many.answer(self._tag, item.frame, answer)
        finally:
            self._task = None

    async def _answer(self, request: wire.PredictRequest) -> Named | wire.PredictResponse:
        many = self._many
        if not self.is_named:
            many.sessions.check_model(request.model)
            self._talk.name(request.session_id)
            self.is_named = True
        return await answer(self._talk, request, many.limits, many.owner, many.tokenizer)


async def answer(
    talk: Conversation, request: wire.PredictRequest, limits: wire.Limits, owner: str, tokenizer: Tokenizer
) -> Named | wire.PredictResponse:
    """One message of a sequence, on its shortest way."""
    plain = convert.to_plain(request)
    if plain is not None and (named := await talk.answer_plain(plain)) is not None:
        return named
    lengths.check_input(request.input, limits)
    prediction = await talk.answer(convert.to_prediction(request), convert.to_caller(owner, request, ""))
    return convert.from_prediction(prediction, tokenizer)


def _weigh(answer: bytes | wire.PredictResponse | status_pb2.Status) -> int:
    return len(answer) if isinstance(answer, bytes) else answer.ByteSize()
