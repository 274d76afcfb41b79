"""The sequences of one PredictMany stream: items in, answers out in frames, whoever is done first.

Each tag is a conversation of its own. What a held session can answer at once costs no task; all else of a tag runs in a
task of its own, one item after the other.
"""

import asyncio
import collections
from collections.abc import Callable

from google.rpc import status_pb2

from carousel.bundle.tokenizer import Tokenizer
from carousel.errors import Overloaded
from carousel.rpc import convert, lengths
from carousel.rpc.prediction_bytes import PredictionBytes
from carousel.sessions.conversation import Conversation
from carousel.sessions.resident import Named
from carousel.sessions.service import Sessions
from carousel.v1 import language_model_pb2 as wire

Refuse = Callable[[wire.PredictRequest, Exception], status_pb2.Status]  # counts and logs it
_MAX_ITEMS_PER_FRAME = 1024


class Many:
    """Belongs to one call. `take` what comes, `next_frame` what goes, `close` at the end whatever happened."""

    def __init__(
        self, sessions: Sessions, encoder: PredictionBytes, limits: wire.Limits, owner: str, refuse: Refuse
    ) -> None:
        self.sessions = sessions
        self.limits = limits
        self.owner = owner
        self._encoder = encoder
        self._refuse = refuse
        self._sequences: dict[int, _Sequence] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._answers: collections.deque[tuple[int, bytes | wire.PredictResponse | status_pb2.Status]]
        self._answers = collections.deque()
        self._changed = asyncio.Event()  # answers have come, or none will
        self._roomy = asyncio.Event()
        self._roomy.set()
        self._is_ended = False
        self.num_waiting = 0  # items that are not answered, or whose answers are not read
        self.num_answered = 0

    def __repr__(self) -> str:
        return f"Many({len(self._sequences)} sequences, {self.num_waiting} items waiting)"

    @property
    def tokenizer(self) -> Tokenizer:
        return self.sessions.tokenizer

    def take(self, frame: wire.PredictManyRequest) -> None:
        for item in frame.items:
            if item.close:
                self._close(item.tag)
            else:
                self._ask(item.tag, item.request)
        if self.num_waiting >= self.limits.max_waiting_per_stream:
            self._roomy.clear()

    async def has_room(self) -> None:
        """Until the stream may be read on."""
        await self._roomy.wait()

    def end(self) -> None:
        """Nothing more will come."""
        self._is_ended = True
        self._changed.set()

    def answer(self, tag: int, outcome: Named | wire.PredictResponse | status_pb2.Status) -> None:
        self._answers.append((tag, self._encoder.encode(outcome) if type(outcome) is Named else outcome))
        self._changed.set()

    def refuse(self, tag: int, request: wire.PredictRequest, error: Exception) -> None:
        self.answer(tag, self._refuse(request, error))

    def drop(self, num_items: int) -> None:
        """They will not be answered."""
        self.num_waiting -= num_items
        self._note_room()

    async def next_frame(self) -> wire.PredictManyResponse | None:
        """What was answered since the last one; None when all is answered and nothing more will come."""
        while not self._answers:
            if self._is_ended and not self.num_waiting:
                return None
            self._changed.clear()
            await self._changed.wait()
        frame = wire.PredictManyResponse()
        for _ in range(min(len(self._answers), _MAX_ITEMS_PER_FRAME)):
            tag, answer = self._answers.popleft()
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
        self.drop(len(frame.items))

    async def close(self) -> None:
        """Every sequence is over."""
        for tag in list(self._sequences):
            self._close(tag)
        if self._closing:
            await asyncio.wait(self._closing)

    def _ask(self, tag: int, request: wire.PredictRequest) -> None:
        self.num_waiting += 1
        sequence = self._sequences.get(tag)
        if sequence is None:
            if len(self._sequences) >= self.limits.max_sequences_per_stream:
                text = f"{len(self._sequences)} sequences are open on this stream"
                error = Overloaded(text, limit="max_sequences_per_stream", retry_seconds=1.0)
                return self.refuse(tag, request, error)
            sequence = self._sequences[tag] = _Sequence(self, tag)
        sequence.ask(request)

    def _close(self, tag: int) -> None:
        sequence = self._sequences.pop(tag, None)
        if sequence is not None:
            task = asyncio.create_task(sequence.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _note_room(self) -> None:
        if self.num_waiting < self.limits.max_waiting_per_stream:
            self._roomy.set()
        if self._is_ended and not self.num_waiting:
            self._changed.set()


class _Sequence:
    """One tag. It is the sink of what its session answers at once."""

    __slots__ = ("_asked", "_many", "_tag", "_talk", "_task", "_waiting", "is_named", "is_over")

    def __init__(self, many: Many, tag: int) -> None:
        self._many = many
        self._tag = tag
        self._talk: Conversation = many.sessions.converse(many.owner)
        self._waiting: collections.deque[wire.PredictRequest] = collections.deque()
        self._asked: wire.PredictRequest | None = None  # on its way without a task
        self._task: asyncio.Task[None] | None = None
        self.is_named = False
        self.is_over = False

    def ask(self, request: wire.PredictRequest) -> None:
        if self._task is None and self._asked is None and self.is_named:
            plain = convert.to_plain(request)
            if plain is not None:
                self._asked = request
                if self._talk.begin_plain(plain, self):
                    return
                self._asked = None
        self._waiting.append(request)
        self._go_on()

    def put(self, outcome: Named | Exception | None) -> None:
        request, self._asked = self._asked, None
        assert request is not None
        if self.is_over:
            self._many.drop(1)
        elif isinstance(outcome, Exception):
            self._many.refuse(self._tag, request, outcome)
        elif outcome is not None:
            self._many.answer(self._tag, outcome)
        else:
            self._waiting.appendleft(request)
        self._go_on()

    async def close(self) -> None:
        """What is not answered is given up."""
        self.is_over = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._many.drop(len(self._waiting))
        self._waiting.clear()
        await self._talk.close()

    def _go_on(self) -> None:
        if self._waiting and self._task is None and self._asked is None and not self.is_over:
            self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._waiting:
                request = self._waiting.popleft()
                try:
                    answer = await self._answer(request)
                except asyncio.CancelledError:
                    self._many.drop(1)
                    raise
                except Exception as error:
                    self._many.refuse(self._tag, request, error)
                else:
                    self._many.answer(self._tag, answer)
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
