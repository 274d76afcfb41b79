"""POST /v1/completions: what was asked becomes turns, and their pieces become choices."""

import contextlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from carousel.errors import SessionExists, SessionNotFound
from carousel.sessions import checks
from carousel.sessions.branch import merge
from carousel.sessions.calls import Call, Calls
from carousel.sessions.operations import SessionOperations
from carousel.sessions.requests import Caller, GenerationRequest, Input, ScoringRequest
from carousel.sessions.service import Sessions
from carousel.sessions.text import pending_bytes
from carousel.web.exchange import Exchange
from carousel.web.openai.answers import REASONS, Answer, Choice, Chunk, deliver
from carousel.web.openai.bodies import CompletionBody
from carousel.web.openai.log_probabilities import LogProbabilities


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
        await deliver(call, exchange, answer, self._chunks(caller, body))

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


class _Answer(Answer):
    """A completion. That of a session tells where the session stands."""

    def __init__(self, model: str, body: CompletionBody) -> None:
        super().__init__(model, body, "cmpl", "text_completion")
        self._session_id = body.session_id

    def event(self, chunk: Chunk) -> bytes:
        if not chunk.text and chunk.logprobs is None and chunk.end is None:
            return b""
        reason = None if chunk.end is None else REASONS[chunk.end.reason]
        more = self.more() if chunk.end is not None and chunk.choice == 0 else None
        return self.pack(self.describe(Choice(chunk.choice, chunk.text, chunk.logprobs, reason)), more)

    def describe(self, choice: Choice) -> dict[str, Any]:
        return {
            "index": choice.index,
            "text": choice.text,
            "logprobs": choice.logprobs,
            "finish_reason": choice.reason,
        }

    def more(self) -> dict[str, Any]:
        return {"session_id": self._session_id, "position": self.position} if self._session_id else {}


def _generation_of(body: CompletionBody, prompt: Input) -> GenerationRequest:
    num_log_probabilities = 0 if body.logprobs is None else max(1, body.logprobs)
    return GenerationRequest(
        prompt, body.sampling, body.max_tokens, body.n, body.stops, tuple(body.stop_token_ids), num_log_probabilities
    )


def _scoring_of(body: CompletionBody, prompt: Input) -> ScoringRequest:
    return ScoringRequest(prompt, num_candidates=max(1, body.logprobs or 0))
