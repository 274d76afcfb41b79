"""POST /v1/completions: what was asked becomes turns, and their pieces become choices."""

import contextlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from carousel.errors import SessionExists, SessionNotFound
from carousel.records import record
from carousel.sessions import checks
from carousel.sessions.branch import merge
from carousel.sessions.calls import Call, Calls
from carousel.sessions.operations import SessionOperations
from carousel.sessions.requests import Caller, GenerationEnd, GenerationRequest, Input, ScoringRequest
from carousel.sessions.service import Sessions
from carousel.sessions.text import pending_bytes
from carousel.turns import FinishReason, SamplingOptions
from carousel.web.door import answer_json
from carousel.web.exchange import Exchange, end, head, part
from carousel.web.openai.bodies import CompletionBody
from carousel.web.openai.log_probabilities import LogProbabilities

DONE = b"data: [DONE]\n\n"
STREAM_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
_REASONS = {
    FinishReason.LENGTH: "length",
    FinishReason.STOP: "stop",
    FinishReason.STOP_ID: "stop",
    FinishReason.INPUT_END: "length",
}


@record(frozen=True, slots=True)
class Chunk:
    """More of one choice. Only its last one has an `end`."""

    choice: int
    text: str
    logprobs: dict[str, Any] | None = None
    end: GenerationEnd | None = None


class Completions:
    """The completions of one model."""

    def __init__(self, sessions: Sessions, operations: SessionOperations, calls: Calls) -> None:
        self._sessions = sessions
        self._operations = operations
        self._calls = calls
        self._tokenizer = sessions.tokenizer

    async def run(self, call: Call, exchange: Exchange, body: CompletionBody, request_id: str) -> None:
        """Answers in one piece or as a stream. A session that does not exist is created."""
        self._sessions.check_model(body.model)
        caller = Caller(call.owner, body.session_id, b"", request_id, body.expected_position, call.timeline)
        await self._check(call, body)
        if body.session_id:
            await self._ensure_session(call, caller, body)
        answer = _Answer(self._sessions.manifest.name, body)
        async with aclosing(self._chunks(caller, body)) as chunks:
            if body.stream:
                await self._stream(call, exchange, answer, chunks)
            else:
                async for chunk in chunks:
                    answer.add(chunk)
                await answer_json(call, exchange, answer.whole())
        call.facts |= {"num_input_tokens": answer.num_input, "num_generated_tokens": answer.num_generated}
        call.facts["finish_reason"] = answer.finish_reason

    async def _check(self, call: Call, body: CompletionBody) -> None:
        """Checks the request before anything is made or sent. An echo is sent before its turn begins."""
        vocabulary_size = self._sessions.manifest.vocabulary_size
        checks.check_generation(_generation_of(body, ""), self._sessions.limits, vocabulary_size)
        is_scored = body.echo and body.logprobs is not None
        if is_scored:
            self._calls.permit(call, "Score")
        for prompt in body.prompts:
            if isinstance(prompt, str) and not body.echo:
                continue  # its turn checks it
            num_tokens = await self._check_prompt(call.owner, prompt)
            if is_scored:
                checks.check_scored_items(num_tokens, _scoring_of(body, prompt), self._sessions.limits)

    async def _check_prompt(self, owner: str, prompt: Input) -> int:
        """Returns the number of its tokens. Raises InvalidRequest."""
        if isinstance(prompt, str):
            return len(await self._sessions.tokenize(owner, prompt))
        checks.check_length(prompt, self._sessions.limits)
        checks.check_ids("input.tokens", prompt, self._sessions.manifest.vocabulary_size)
        return len(prompt)

    async def _ensure_session(self, call: Call, caller: Caller, body: CompletionBody) -> None:
        """Creates a session that does not exist, unless the caller expects to be further."""
        try:
            await self._operations.get(caller.owner, caller.session_id)
        except SessionNotFound:
            if caller.expected_position:
                raise
            for prompt in body.prompts:
                await self._check_prompt(caller.owner, prompt)
            self._calls.permit(call, "CreateSession")
            with contextlib.suppress(SessionExists):  # by another request, meanwhile
                await self._operations.create(caller.owner, caller.session_id)

    async def _stream(self, call: Call, exchange: Exchange, answer: "_Answer", chunks: AsyncIterator[Chunk]) -> None:
        """The head waits for the first chunk: a refusal before it has a status of its own."""
        async for chunk in chunks:
            answer.add(chunk)
            if not exchange.is_begun:
                exchange.is_stream = True
                await call.write(exchange, head(200, STREAM_HEADERS))
            if (event := answer.event(chunk)) is not None:
                await call.write(exchange, part(event))
        await call.write(exchange, part(answer.usage_event() + DONE))
        await call.write(exchange, end())

    async def _chunks(self, caller: Caller, body: CompletionBody) -> AsyncGenerator[Chunk]:
        runs = [self._run(caller, body, number, prompt) for number, prompt in enumerate(body.prompts)]
        async with aclosing(runs[0] if len(runs) == 1 else merge(runs)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _run(self, caller: Caller, body: CompletionBody, number: int, prompt: Input) -> AsyncGenerator[Chunk]:
        """Yields the chunks of one prompt's choices."""
        num_top = body.logprobs or 0
        tail = b"" if isinstance(prompt, str) else pending_bytes(self._tokenizer, b"", prompt)
        writers = [LogProbabilities(self._tokenizer, num_top, tail) for _ in range(body.n)]
        if body.echo:
            async with aclosing(self._echo(caller, body, number, prompt, writers)) as echoed:
                async for chunk in echoed:
                    yield chunk
        async with aclosing(self._sessions.generate(caller, _generation_of(body, prompt))) as pieces:
            async for piece in pieces:
                writer = writers[piece.branch] if body.logprobs is not None else None
                logprobs = writer.of_generated(piece.tokens) if writer is not None and piece.tokens else None
                yield Chunk(number * body.n + piece.branch, piece.text, logprobs, piece.end)

    async def _echo(
        self, caller: Caller, body: CompletionBody, number: int, prompt: Input, writers: list[LogProbabilities]
    ) -> AsyncGenerator[Chunk]:
        """Yields the prompt, in every choice of it. With log-probabilities it is scored, on a sequence of its own."""
        choices = range(number * body.n, (number + 1) * body.n)
        text = prompt if isinstance(prompt, str) else await self._sessions.detokenize(caller.owner, prompt)
        if body.logprobs is None:
            for choice in choices:
                yield Chunk(choice, text)
            return
        request = _scoring_of(body, prompt)
        tokens = [
            token
            async for piece in self._sessions.score(replace(caller, request_id=""), request)
            for token in piece.tokens
        ]
        for choice, writer in zip(choices, writers, strict=True):
            yield Chunk(choice, text, writer.of_scored(tokens) if tokens else None)


class _Answer:
    """Collects the chunks of one answer, and writes it whole or as events."""

    def __init__(self, model: str, body: CompletionBody) -> None:
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._body = body
        self._has_usage = body.stream and body.stream_options is not None and body.stream_options.include_usage
        self._choices: dict[int, dict[str, Any]] = {}
        self._position: int | None = None
        self._inputs: dict[int, int] = {}  # tokens of each prompt
        self.num_generated = 0
        self.finish_reason = "length"

    @property
    def num_input(self) -> int:
        return sum(self._inputs.values())

    def add(self, chunk: Chunk) -> None:
        """Takes a chunk in. A streamed answer keeps no text."""
        if chunk.end is not None:
            self._inputs[chunk.choice // self._body.n] = chunk.end.num_input_tokens
            self.num_generated += chunk.end.num_generated_tokens
            self.finish_reason = _REASONS[chunk.end.reason]
            if chunk.choice == 0:
                self._position = chunk.end.standing.position
        if not self._body.stream:
            self._extend(chunk)

    def event(self, chunk: Chunk) -> bytes | None:
        """Returns the chunk as an event, or None where it says nothing."""
        if not chunk.text and chunk.logprobs is None and chunk.end is None:
            return None
        finish = None if chunk.end is None else _REASONS[chunk.end.reason]
        choice = {"index": chunk.choice, "text": chunk.text, "logprobs": chunk.logprobs, "finish_reason": finish}
        more = self._session() if chunk.end is not None and chunk.choice == 0 else {}
        return _event(self._head | {"choices": [choice]} | more | ({"usage": None} if self._has_usage else {}))

    def usage_event(self) -> bytes:
        """Returns the event that tells the usage; empty if nobody asked."""
        return _event(self._head | {"choices": [], "usage": self._usage()}) if self._has_usage else b""

    def whole(self) -> dict[str, Any]:
        choices = [
            self._choices[index] | {"text": "".join(self._choices[index]["text"])} for index in sorted(self._choices)
        ]
        return self._head | {"choices": choices, "usage": self._usage()} | self._session()

    def _extend(self, chunk: Chunk) -> None:
        empty = {"index": chunk.choice, "text": [], "logprobs": None, "finish_reason": None}
        choice = self._choices.setdefault(chunk.choice, empty)
        choice["text"].append(chunk.text)
        if chunk.logprobs is not None:
            before = choice["logprobs"] or {key: [] for key in chunk.logprobs}
            choice["logprobs"] = {key: before[key] + values for key, values in chunk.logprobs.items()}
        if chunk.end is not None:
            choice["finish_reason"] = _REASONS[chunk.end.reason]

    def _session(self) -> dict[str, Any]:
        return {"session_id": self._body.session_id, "position": self._position} if self._body.session_id else {}

    def _usage(self) -> dict[str, int]:
        num_input, num_generated = self.num_input, self.num_generated
        return {
            "prompt_tokens": num_input,
            "completion_tokens": num_generated,
            "total_tokens": num_input + num_generated,
        }


def _generation_of(body: CompletionBody, prompt: Input) -> GenerationRequest:
    sampling = SamplingOptions(
        temperature=body.temperature,
        top_k=body.top_k,
        top_p=body.top_p,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=body.biases,
        seed=body.seed,
    )
    num_log_probabilities = 0 if body.logprobs is None else max(1, body.logprobs)
    return GenerationRequest(
        prompt, sampling, body.max_tokens, body.n, body.stops, tuple(body.stop_token_ids), num_log_probabilities
    )


def _scoring_of(body: CompletionBody, prompt: Input) -> ScoringRequest:
    return ScoringRequest(prompt, num_candidates=max(1, body.logprobs or 0))


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"
