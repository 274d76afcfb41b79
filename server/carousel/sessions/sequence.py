"""One sequence of a stream of many: its messages in order.

A message that a held session can answer at once needs no task. All others run in the sequence's own task, one after
another, and each passes the gate.
"""

import asyncio
import collections
from typing import NamedTuple, Protocol

from carousel.sessions.conversation import Conversation
from carousel.sessions.messages import Message, Reader
from carousel.sessions.requests import Prediction
from carousel.sessions.resident import Named

# In the gate's unit.
_HELD_COST, _ORDINARY_COST = 2.0, 20.0  # a message in a task, with its session held or not
_CLOSE_COST = 15.0  # closing a sequence that holds something


class Question(NamedTuple):
    """One request, and the bytes that it takes until it is answered."""

    request: Message
    num_bytes: int
    num_answer_bytes: int  # its answer's size, about


class Stream(Protocol):
    """The stream of a sequence. Each question is answered, refused or dropped exactly once."""

    async def enter(self, cost: float) -> None:
        """Waits until work of that cost may run."""
        ...

    async def until_read(self) -> None:
        """Waits until the client has read enough answers."""
        ...

    def answer(self, tag: int, question: Question, outcome: Named | Prediction) -> None: ...

    def refuse(self, tag: int, question: Question, error: Exception) -> None: ...

    def drop(self, question: Question) -> None:
        """Drops the question without an answer."""
        ...


class Sequence:
    """One sequence. The caller must close it. It is the sink of the answers that its session gives at once."""

    __slots__ = (
        "_asked",
        "_reader",
        "_stream",
        "_tag",
        "_talk",
        "_task",
        "_waiting",
        "is_over",
    )

    def __init__(self, stream: Stream, tag: int, talk: Conversation, reader: Reader) -> None:
        self._stream = stream
        self._tag = tag
        self._talk = talk
        self._reader = reader
        self._waiting: collections.deque[Question] | None = None  # None saves memory: most sequences wait for nothing
        self._asked: Question | None = None  # runs without a task
        self._task: asyncio.Task[None] | None = None
        self.is_over = False

    def ask(self, question: Question) -> None:
        if self._task is None and self._asked is None:
            plain = self._reader.to_plain(question.request)
            if plain is not None:
                self._asked = question
                if self._talk.begin_plain(plain, self):
                    return
                self._asked = None
        if self._waiting is None:
            self._waiting = collections.deque()
        self._waiting.append(question)
        self._go_on()

    def put(self, outcome: Named | Exception | None) -> None:
        question, self._asked = self._asked, None
        assert question is not None
        if self.is_over:
            self._stream.drop(question)
        elif isinstance(outcome, Exception):
            self._stream.refuse(self._tag, question, outcome)
        elif outcome is not None:
            self._stream.answer(self._tag, question, outcome)
        else:
            self._waiting = collections.deque([question, *(self._waiting or ())])
        self._go_on()

    async def close(self) -> None:
        """Closes the sequence and drops its unanswered questions."""
        self.is_over = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        while self._waiting:
            self._stream.drop(self._waiting.popleft())
        if self._talk.is_holding:
            await self._stream.enter(_CLOSE_COST)
        await self._talk.close()

    def _go_on(self) -> None:
        if self._waiting and self._task is None and self._asked is None and not self.is_over:
            self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._waiting and not self.is_over:
                question = self._waiting.popleft()
                self._waiting = self._waiting or None
                try:
                    answer = await self._answer(question.request)
                    self._stream.answer(self._tag, question, answer)
                except asyncio.CancelledError:
                    self._stream.drop(question)
                    raise
                except Exception as error:
                    self._stream.refuse(self._tag, question, error)
        finally:
            self._task = None

    async def _answer(self, request: Message) -> Named | Prediction:
        await self._stream.until_read()
        cost = _HELD_COST if self._talk.is_holding else _ORDINARY_COST
        await self._stream.enter(cost + self._talk.search_cost(self._reader.num_words(request)))
        return await self._talk.ask(request, self._reader)
