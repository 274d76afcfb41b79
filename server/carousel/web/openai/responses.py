"""POST, GET and DELETE of /v1/responses: what was asked becomes one turn with a lineage, and its pieces a response."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial

from carousel.errors import InvalidRequest
from carousel.records import record
from carousel.sessions import checks
from carousel.sessions.calls import Call, Calls
from carousel.sessions.operations import SessionOperations
from carousel.sessions.requests import (
    Caller,
    GenerationEnd,
    GenerationPiece,
    GenerationRequest,
    Lineage,
    Receipt,
)
from carousel.sessions.service import Sessions
from carousel.turns import FinishReason
from carousel.web.bodies import parse
from carousel.web.door import Named, answer_json, key_of, session_id_of
from carousel.web.exchange import Exchange, end, head, part
from carousel.web.json_errors import Terms
from carousel.web.openai.answers import STREAM_HEADERS
from carousel.web.openai.names import PARAMS
from carousel.web.openai.opening import SessionOpening
from carousel.web.openai.response_bodies import ResponseBody
from carousel.web.openai.response_events import ResponseEvents
from carousel.web.openai.response_ids import read_id
from carousel.web.openai.response_objects import ResponseObject, write_memo

_PARAMS = PARAMS | {"input": "input", "max_tokens": "max_output_tokens", "session_id": "conversation"}
_PREVIOUS = Terms(_PARAMS, "previous_response_not_found", "previous_response_id")
_NAMED = Terms(_PARAMS, "response_not_found", "response_id")


@record(frozen=True, slots=True)
class _Asked:
    """A request that has passed the transport's checks."""

    body: ResponseBody
    caller: Caller
    request: GenerationRequest


class Responses:
    """The responses of one model."""

    def __init__(self, sessions: Sessions, operations: SessionOperations, calls: Calls) -> None:
        self._sessions = sessions
        self._opening = SessionOpening(operations, calls)
        self._calls = calls
        self._model = sessions.manifest.name

    async def create(self, call: Call, exchange: Exchange, content: bytes) -> None:
        """Answers in one piece or as a stream."""
        exchange.spell = Terms(_PARAMS).to_body
        asked = self._read(call, exchange, parse(ResponseBody, content))
        if asked.caller.session_id:
            await self._opening.ensure(call, asked.caller, partial(self._check, asked))
        async with aclosing(self._sessions.generate(asked.caller, asked.request)) as pieces:
            if asked.body.stream:
                await self._stream(call, exchange, pieces)
            else:
                await self._answer(call, exchange, pieces)

    async def retrieve(self, call: Call, exchange: Exchange, content: bytes) -> None:
        """Answers with the response as it was, while its answer is kept."""
        exchange.spell = _NAMED.to_body
        query = exchange.request.query_params
        if query.get("stream", "false") != "false":
            raise InvalidRequest("stream", "is for POST: a kept answer is whole")
        if wrong := next((name for name in query if name.partition("[")[0] in ("include", "starting_after")), None):
            raise InvalidRequest(wrong, "is not supported")
        waypoint = read_id(call.owner, exchange.request.path_params["id"])
        call.named = Named(waypoint.session_id)  # not the request's: nothing is written
        answer, memo = await self._sessions.recall(call.owner, waypoint)
        response = ResponseObject(self._model, call.owner, Receipt(waypoint, memo))
        await answer_json(call, exchange, response.done(answer.text, answer.end))

    async def delete(self, call: Call, exchange: Exchange, content: bytes) -> None:
        """Ends the session that stands at the response. Of an older one, forgets the response alone."""
        exchange.spell = _NAMED.to_body
        response_id = exchange.request.path_params["id"]
        waypoint = read_id(call.owner, response_id)
        call.request = call.named = Named(waypoint.session_id)
        await self._sessions.forget(call.owner, waypoint)
        await answer_json(call, exchange, {"id": response_id, "object": "response", "deleted": True})

    def _read(self, call: Call, exchange: Exchange, body: ResponseBody) -> _Asked:
        """Returns what is asked for. Raises InvalidRequest, ModelNotFound, or SessionNotFound for an id that is none of
        the caller's."""
        session_id = session_id_of(exchange, body.session_id)
        body.check(session_id)
        self._sessions.check_model(body.model)
        if "max_output_tokens" not in body.model_fields_set:
            most = min(body.max_output_tokens, self._sessions.limits.max_generated_tokens)
            body = body.model_copy(update={"max_output_tokens": most})
        request = body.generation()
        after = None
        if body.previous_response_id:
            exchange.spell = _PREVIOUS.to_body
            after = read_id(call.owner, body.previous_response_id)
        request_id = key_of(exchange) if body.store else ""
        call.named = Named(session_id if after is None else after.session_id, request_id)
        if body.store:
            call.request = call.named
        found = partial(self._calls.permit, call, "CreateSession")
        lineage = Lineage(after, write_memo(body, session_id), body.store, found)
        caller = Caller(call.owner, session_id, b"", request_id, body.expected_position, call.timeline, lineage)
        return _Asked(body, caller, request)

    async def _check(self, asked: _Asked) -> None:
        """Checks the request before its session is made."""
        checks.check_generation(asked.request, self._sessions.limits, self._sessions.manifest.vocabulary_size)
        assert isinstance(asked.request.input, str)
        await self._sessions.tokenize(asked.caller.owner, asked.request.input)

    async def _answer(self, call: Call, exchange: Exchange, pieces: AsyncIterator[GenerationPiece]) -> None:
        texts = []
        async for piece in pieces:
            texts.append(piece.text)
        assert piece.receipt is not None
        assert piece.end is not None
        response = self._begin(call, piece.receipt)
        _note(call, piece.end)
        await answer_json(call, exchange, response.done("".join(texts), piece.end))

    async def _stream(self, call: Call, exchange: Exchange, pieces: AsyncIterator[GenerationPiece]) -> None:
        """The head waits for the first piece: a refusal before it has a status of its own."""
        events: ResponseEvents | None = None
        async for piece in pieces:
            if events is None:
                assert piece.receipt is not None
                events = ResponseEvents(self._begin(call, piece.receipt))
                await self._begin_stream(call, exchange, events)
            if event := events.add(piece.text):
                await call.write(exchange, part(event))
        assert events is not None
        assert piece.end is not None
        _note(call, piece.end)
        await call.write(exchange, part(events.finish(piece.end)))
        await call.write(exchange, end())

    async def _begin_stream(self, call: Call, exchange: Exchange, events: ResponseEvents) -> None:
        spell = exchange.spell
        assert spell is not None
        exchange.is_stream = True
        exchange.last_words = lambda error: events.fail(json.loads(spell(error))["error"])
        await call.write(exchange, head(200, STREAM_HEADERS))
        await call.write(exchange, part(events.begin()))

    def _begin(self, call: Call, receipt: Receipt) -> ResponseObject:
        if receipt.waypoint is not None:
            call.request = call.named = Named(receipt.waypoint.session_id, call.named.request_id)
        return ResponseObject(self._model, call.owner, receipt)


def _note(call: Call, end: GenerationEnd) -> None:
    reason = "stop" if end.reason in (FinishReason.STOP, FinishReason.STOP_ID) else "length"
    call.facts |= {"num_input_tokens": end.num_input_tokens, "num_generated_tokens": end.num_generated_tokens}
    call.facts["finish_reason"] = reason
