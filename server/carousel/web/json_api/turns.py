"""Predict and score over HTTP: a body becomes a request of `sessions`, and its answer one JSON object."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from carousel.sessions.calls import Call
from carousel.sessions.requests import Caller, ScoredToken, ScoreTotals
from carousel.sessions.service import Sessions
from carousel.web.bodies import Some, parse
from carousel.web.door import JSON_HEADERS, Named, answer_json, answer_whole, request_id_of, session_id_of
from carousel.web.exchange import Exchange
from carousel.web.json_api import shapes
from carousel.web.json_api.bodies import PredictBody, ScoreBody, TextBody
from carousel.web.spelling import write_listing

_MAX_AT_ONCE = 1024  # items that are written in the event loop, in about a millisecond


class TurnHandlers:
    """Each takes an admitted call and the body of its request."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._tokenizer = sessions.tokenizer

    async def predict(self, call: Call, exchange: Exchange, content: bytes) -> None:
        body = _read(PredictBody, call, exchange, content)
        found = await self._sessions.predict(_caller(call, exchange, body, body.expected_position), body.request)
        await answer_json(call, exchange, shapes.of_prediction(found, self._tokenizer) | _named(body))

    async def score(self, call: Call, exchange: Exchange, content: bytes) -> None:
        body = _read(ScoreBody, call, exchange, content)
        caller = _caller(call, exchange, body, body.expected_position)
        tokens: list[ScoredToken] = []
        totals: ScoreTotals | None = None
        async with aclosing(self._sessions.score(caller, body.request)) as pieces:
            async for piece in pieces:
                tokens += piece.tokens
                totals = piece.totals or totals
        assert totals is not None
        write = partial(self._write_scoring, tokens, totals, _named(body))
        is_long = len(tokens) * (1 + body.num_candidates) > _MAX_AT_ONCE
        await answer_whole(call, exchange, await asyncio.to_thread(write) if is_long else write(), JSON_HEADERS)

    def _write_scoring(self, tokens: Sequence[ScoredToken], totals: ScoreTotals, named: dict[str, Any]) -> bytes:
        items = (shapes.of_scored(one, self._tokenizer) for one in tokens)
        return write_listing("tokens", items, shapes.of_totals(totals) | named)


def _read(kind: type[Some], call: Call, exchange: Exchange, content: bytes) -> Some:
    """Returns the body, with the session that a header names, and notes what it names for the call's log line."""
    body = parse(kind, content)
    assert isinstance(body, TextBody)
    named = body.model_copy(update={"session_id": session_id_of(exchange, body.session_id)})
    call.request = call.named = Named(named.session_id, request_id_of(exchange, named.session_id))
    return named


def _caller(call: Call, exchange: Exchange, body: TextBody, expected_position: int | None) -> Caller:
    request_id = request_id_of(exchange, body.session_id)
    return Caller(call.owner, body.session_id, b"", request_id, expected_position, call.timeline)


def _named(body: TextBody) -> dict[str, Any]:
    return {"session_id": body.session_id} if body.session_id else {}
