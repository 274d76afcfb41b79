"""POST /v1/chat/completions: the bundle's template makes a text of the messages, and the answer is what follows it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from carousel.errors import InvalidRequest
from carousel.sessions import checks
from carousel.sessions.calls import Call
from carousel.sessions.requests import Caller, GenerationRequest, Input
from carousel.sessions.service import Sessions
from carousel.web.exchange import Exchange
from carousel.web.openai.answers import REASONS, Answer, Choice, Chunk, deliver
from carousel.web.openai.chat_bodies import ChatBody
from carousel.web.openai.log_probabilities import list_contents


class Chats:
    """The chat completions of one model. Each begins with a fresh sequence."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def run(self, call: Call, exchange: Exchange, body: ChatBody) -> None:
        """Answers in one piece or as a stream. Raises ChatTemplateMissing where the bundle has no template."""
        self._sessions.check_model(body.model)
        text = await self._sessions.render_chat(call.owner, body.conversation)
        request = self._make_request(body, await self._encode(call.owner, text))
        answer = _Answer(self._sessions.manifest.name, body)
        await deliver(call, exchange, answer, self._chunks(call, body, request))

    async def _encode(self, owner: str, text: str) -> Input:
        """Raises InvalidRequest that names the messages: the caller knows no other input."""
        try:
            return await self._sessions.tokenize(owner, text)
        except InvalidRequest as error:
            raise InvalidRequest("messages", str(error).removeprefix(f"{error.field}: ")) from error

    def _make_request(self, body: ChatBody, ids: Input) -> GenerationRequest:
        """Raises InvalidRequest. The template's stops count among the request's."""
        sessions = self._sessions
        chat = sessions.manifest.chat
        own = chat.stops if chat is not None else ()
        if len(body.stops) > (room := checks.MAX_STOPS - len(own)):
            text = f"at most {room} beside the {len(own)} of the chat template, not {len(body.stops)}"
            raise InvalidRequest("stop", text)
        return GenerationRequest(
            ids,
            body.sampling,
            body.most_tokens(sessions.limits),
            body.n,
            (*body.stops, *own),
            tuple(body.stop_token_ids),
            body.num_log_probabilities,
        )

    async def _chunks(self, call: Call, body: ChatBody, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        caller = Caller(call.owner, timeline=call.timeline)
        async with aclosing(self._sessions.generate(caller, request)) as pieces:
            async for piece in pieces:
                logprobs = None
                if body.logprobs and piece.tokens:
                    content = list_contents(self._sessions.tokenizer, piece.tokens, body.top_logprobs)
                    logprobs = {"content": content}
                yield Chunk(piece.branch, piece.text, logprobs, piece.end)


class _Answer(Answer):
    """A message of the assistant."""

    def __init__(self, model: str, body: ChatBody) -> None:
        super().__init__(model, body, "chatcmpl", "chat.completion.chunk" if body.stream else "chat.completion")
        self._begun: set[int] = set()

    def event(self, chunk: Chunk) -> bytes:
        """The first event of a choice has the role. The last one has the reason, and no text."""
        events = b""
        if chunk.choice not in self._begun:
            self._begun.add(chunk.choice)
            events += self._pack_delta(chunk.choice, {"role": "assistant", "content": ""})
        if chunk.text or chunk.logprobs is not None:
            events += self._pack_delta(chunk.choice, {"content": chunk.text}, chunk.logprobs)
        if chunk.end is not None:
            events += self._pack_delta(chunk.choice, {}, reason=REASONS[chunk.end.reason])
        return events

    def describe(self, choice: Choice) -> dict[str, Any]:
        return {
            "index": choice.index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": choice.logprobs,
            "finish_reason": choice.reason,
        }

    def _pack_delta(
        self, index: int, delta: dict[str, str], logprobs: dict[str, Any] | None = None, reason: str | None = None
    ) -> bytes:
        return self.pack({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason})
