"""What completions and chats share: the chunks of their choices, and how an answer is sent, whole or as events."""

import abc
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from carousel.records import record
from carousel.sessions.calls import Call
from carousel.sessions.requests import GenerationEnd
from carousel.turns import FinishReason
from carousel.web.door import answer_json
from carousel.web.exchange import Exchange, end, head, part
from carousel.web.openai.bodies import GenerationBody

DONE = b"data: [DONE]\n\n"
STREAM_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
REASONS = {
    FinishReason.LENGTH: "length",
    FinishReason.STOP: "stop",
    FinishReason.STOP_ID: "stop",
    FinishReason.INPUT_END: "length",
}
LogProbs = dict[str, list[Any]]  # lists that become longer from chunk to chunk


@record(frozen=True, slots=True)
class Chunk:
    """More of one choice. Only its last one has an `end`."""

    choice: int
    text: str
    logprobs: LogProbs | None = None
    end: GenerationEnd | None = None


@record(frozen=True, slots=True)
class Choice:
    """One choice, complete."""

    index: int
    text: str
    logprobs: LogProbs | None
    reason: str | None


class Answer(abc.ABC):
    """Collects the chunks of one answer, and writes it whole or as events. The forms of choices are those of a call."""

    def __init__(self, model: str, body: GenerationBody, prefix: str, kind: str) -> None:
        """`prefix` begins the answer's id; `kind` is what it, or each of its events, says that it is."""
        created = int(time.time())
        self.head = {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": created, "model": model}
        self.is_stream = body.stream
        self.position: int | None = None  # of the first choice's sequence, at its end
        self._has_usage = body.has_usage_event
        self._num_branches = body.n
        self._texts: dict[int, list[str]] = {}
        self._logprobs: dict[int, LogProbs] = {}
        self._reasons: dict[int, str] = {}
        self._inputs: dict[int, int] = {}  # tokens of each prompt
        self._num_generated = 0

    @abc.abstractmethod
    def event(self, chunk: Chunk) -> bytes:
        """Returns the chunk as events; empty where it says nothing."""

    @abc.abstractmethod
    def describe(self, choice: Choice) -> dict[str, Any]:
        """Returns a choice of the whole answer."""

    def more(self) -> dict[str, Any]:
        """Returns what the whole answer says besides."""
        return {}

    def add(self, chunk: Chunk) -> None:
        """Takes a chunk in. A streamed answer keeps no text."""
        if chunk.end is not None:
            self._inputs[chunk.choice // self._num_branches] = chunk.end.num_input_tokens
            self._num_generated += chunk.end.num_generated_tokens
            self._reasons[chunk.choice] = REASONS[chunk.end.reason]
            if chunk.choice == 0:
                self.position = chunk.end.standing.position
        if not self.is_stream:
            self._texts.setdefault(chunk.choice, []).append(chunk.text)
            if chunk.logprobs is not None:
                before = self._logprobs.setdefault(chunk.choice, {key: [] for key in chunk.logprobs})
                for key, values in chunk.logprobs.items():
                    before[key] += values

    def pack(self, choice: dict[str, Any], more: dict[str, Any] | None = None) -> bytes:
        """Returns an event with one choice."""
        return write_event(
            self.head | {"choices": [choice]} | (more or {}) | ({"usage": None} if self._has_usage else {})
        )

    def last_events(self) -> bytes:
        """Returns the events after all choices. One tells the usage, if somebody asked."""
        usage = write_event(self.head | {"choices": [], "usage": self._usage()}) if self._has_usage else b""
        return usage + DONE

    def whole(self) -> dict[str, Any]:
        choices = [
            self.describe(Choice(index, "".join(texts), self._logprobs.get(index), self._reasons.get(index)))
            for index, texts in sorted(self._texts.items())
        ]
        return self.head | {"choices": choices, "usage": self._usage()} | self.more()

    def facts(self) -> dict[str, Any]:
        """Returns what the log line says."""
        last = next(reversed(self._reasons.values()), "length")
        usage = self._usage()
        return {
            "num_input_tokens": usage["prompt_tokens"],
            "num_generated_tokens": usage["completion_tokens"],
            "finish_reason": last,
        }

    def _usage(self) -> dict[str, int]:
        num_input, num_generated = sum(self._inputs.values()), self._num_generated
        return {
            "prompt_tokens": num_input,
            "completion_tokens": num_generated,
            "total_tokens": num_input + num_generated,
        }


async def deliver(call: Call, exchange: Exchange, answer: Answer, chunks: AsyncGenerator[Chunk]) -> None:
    """Runs the turns behind the chunks, and sends what they give."""
    async with aclosing(chunks):
        if answer.is_stream:
            await _stream(call, exchange, answer, chunks)
        else:
            async for chunk in chunks:
                answer.add(chunk)
            await answer_json(call, exchange, answer.whole())
    call.facts |= answer.facts()


async def _stream(call: Call, exchange: Exchange, answer: Answer, chunks: AsyncIterator[Chunk]) -> None:
    """The head waits for the first chunk: a refusal before it has a status of its own."""
    async for chunk in chunks:
        answer.add(chunk)
        if not exchange.is_begun:
            exchange.is_stream = True
            await call.write(exchange, head(200, STREAM_HEADERS))
        if event := answer.event(chunk):
            await call.write(exchange, part(event))
    await call.write(exchange, part(answer.last_events()))
    await call.write(exchange, end())


def write_event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"
