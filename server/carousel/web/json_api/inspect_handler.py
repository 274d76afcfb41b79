"""Inspect over HTTP: the states after all tokens in one answer, each tensor's values as one block of bytes."""

import asyncio
from base64 import b64encode
from contextlib import aclosing
from typing import Any

import numpy as np

from carousel.bundle.layout import Array
from carousel.bundle.tokenizer import Tokenizer
from carousel.errors import InvalidRequest
from carousel.identity.scopes import READING
from carousel.sessions.calls import Call, Calls
from carousel.sessions.inspection import Inspected, Inspection
from carousel.sessions.requests import Caller
from carousel.web.bodies import parse
from carousel.web.door import JSON_HEADERS, Named, answer_whole, session_id_of
from carousel.web.exchange import Exchange
from carousel.web.json_api import shapes
from carousel.web.json_api.bodies import InspectBody
from carousel.web.spelling import write_listing

MAX_VALUE_BYTES = 2**24  # of an answer, which is written in one piece


class InspectHandler:
    """Takes an admitted call and the body of its request."""

    def __init__(self, inspection: Inspection, calls: Calls, tokenizer: Tokenizer) -> None:
        self._inspection = inspection
        self._calls = calls
        self._tokenizer = tokenizer

    async def inspect(self, call: Call, exchange: Exchange, content: bytes) -> None:
        body = parse(InspectBody, content)
        session_id = session_id_of(exchange, body.session_id)
        call.request = call.named = Named(session_id)
        if session_id:
            self._calls.permit(call, READING)
        moments = await self._collect(call, Caller(call.owner, session_id, timeline=call.timeline), body)
        answer = await asyncio.to_thread(self._write, moments, session_id)
        await answer_whole(call, exchange, answer, JSON_HEADERS)

    async def _collect(self, call: Call, caller: Caller, body: InspectBody) -> list[Inspected]:
        moments: list[Inspected] = []
        num_bytes = 0
        async with aclosing(self._inspection.inspect(caller, body.request)) as found:
            async for moment in found:
                num_bytes += sum(array.nbytes for array in moment.values)
                if num_bytes > MAX_VALUE_BYTES:
                    text = f"more than {MAX_VALUE_BYTES} bytes of values in one answer: name fewer, or read less"
                    raise InvalidRequest("tensors", text)
                moments.append(moment)
                call.facts["num_input_tokens"] = len(moments) - 1
        return moments

    def _write(self, moments: list[Inspected], session_id: str) -> bytes:
        tensors = [
            {"name": one.name, "shape": list(one.shape), "dtype": one.dtype}
            | {"values": _encode([moment.values[place] for moment in moments])}
            for place, one in enumerate(moments[0].tensors)
        ]
        tokens = (shapes.of_inspected(moment.token, self._tokenizer) for moment in moments if moment.token is not None)
        found: dict[str, Any] = {"tensors": tensors, "position": moments[-1].position}
        return write_listing("tokens", tokens, found | ({"session_id": session_id} if session_id else {}))


def _encode(arrays: list[Array]) -> str:
    """Returns base64 of the values, little-endian, moment after moment."""
    stacked = np.stack(arrays)
    return b64encode(stacked.astype(stacked.dtype.newbyteorder("<"), copy=False).tobytes()).decode()
