"""Turns on the wire: converts the request, calls one method of `Sessions`, converts the result.

Methods write their streams and do not yield them. When the transport drops an asynchronous generator, it ends only when
the garbage collector finds it, and would hold its lane until then.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from carousel.rpc import convert, lengths
from carousel.rpc.calls import Context, RpcCalls
from carousel.rpc.predict_messages import ManyMessages, PredictMessages
from carousel.rpc.prediction_bytes import PredictionBytes
from carousel.rpc.reading import UNREADABLE
from carousel.sessions.calls import Call, message_invalid
from carousel.sessions.many import Many
from carousel.sessions.requests import Prediction
from carousel.sessions.resident import Named
from carousel.sessions.service import Sessions
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc


class LanguageModelServicer(language_model_pb2_grpc.LanguageModelServicer):
    """The servicer of turns. GetModel returns `model`. Lists that are too long are refused before they are read."""

    def __init__(self, sessions: Sessions, model: wire.Model, calls: RpcCalls) -> None:
        self._sessions = sessions
        self._model = model
        self._limits = sessions.limits
        self._calls = calls
        self._encoder = PredictionBytes(sessions.tokenizer)
        self._messages = PredictMessages(self._limits)
        self._many_messages = ManyMessages(self._encoder, sessions.tokenizer, self._limits)

    async def Generate(self, request: wire.GenerateRequest, context: Context) -> None:
        async with self._calls.answer("Generate", context, request) as call:
            self._sessions.check_model(request.model)
            lengths.check_generation(request, self._limits)
            caller = convert.to_caller(call.owner, request, request.session_id, call.timeline)
            pieces = self._sessions.generate(caller, convert.to_generation(request))
            async with aclosing(pieces):
                async for piece in pieces:
                    for part in convert.split_piece(piece):
                        response = convert.from_generation(part, request.content, self._sessions.tokenizer)
                        if response.ByteSize():
                            await call.write(context, response)
                    if piece.end is not None:
                        call.facts["num_input_tokens"] = piece.end.num_input_tokens
                        call.facts["num_generated_tokens"] = piece.end.num_generated_tokens
                        call.facts["finish_reason"] = piece.end.reason.value

    async def Predict(self, _requests: AsyncIterator[wire.PredictRequest], context: Context) -> None:
        async with self._calls.answer("Predict", context) as call, self._sessions.conversing(call.owner) as talk:
            num_messages, encode = 0, self._encoder.encode
            while (request := await _wait_for(call, context)) is not None:
                found = await talk.ask(request, self._messages)
                await call.write(context, encode(found) if isinstance(found, Named) else self._convert(found))
                num_messages += 1
                call.facts["num_messages"] = num_messages

    def _convert(self, prediction: Prediction) -> wire.PredictResponse:
        return convert.from_prediction(prediction, self._sessions.tokenizer)

    async def PredictMany(self, _requests: AsyncIterator[wire.PredictManyRequest], context: Context) -> None:
        async with self._calls.answer("PredictMany", context) as call:

            def rest(is_resting: bool) -> None:
                call.is_waiting = is_resting

            refusals = self._calls.refusing_items("PredictMany", context)
            many = self._sessions.converse_many(call.owner, self._many_messages, rest, refusals.note)
            writing = asyncio.create_task(_write_frames(many, call, context))
            try:
                while (content := await _read(call, context)) is not None:
                    await many.receive(content)
                await many.end()
                await writing
            except Exception:  # the answers go out first: no status can be sent while a message is on its way
                await many.close()
                await many.end()
                await writing
                raise
            finally:
                writing.cancel()
                await many.close()
                await asyncio.gather(writing, return_exceptions=True)
                refusals.close()
                call.facts["num_messages"] = many.num_answered

    async def Score(self, request: wire.ScoreRequest, context: Context) -> None:
        async with self._calls.answer("Score", context, request) as call:
            self._sessions.check_model(request.model)
            lengths.check_input(request.input, self._limits)
            caller = convert.to_caller(call.owner, request, request.session_id, call.timeline)
            pieces = self._sessions.score(caller, convert.to_scoring(request))
            async with aclosing(pieces):
                async for piece in pieces:
                    for part in convert.split_scoring(piece):
                        await call.write(context, convert.from_scoring(part))
                    if piece.totals is not None:
                        call.facts["num_input_tokens"] = piece.totals.num_tokens

    async def Tokenize(self, request: wire.TokenizeRequest, context: Context) -> wire.TokenizeResponse:
        async with self._calls.answer("Tokenize", context, request) as call:
            self._sessions.check_model(request.model)
            ids = await self._sessions.tokenize(call.owner, request.text)
            response = wire.TokenizeResponse()
            for _ in convert.fill_tokens(response, ids, self._sessions.tokenizer):
                await asyncio.sleep(0)
            return response

    async def Detokenize(self, request: wire.DetokenizeRequest, context: Context) -> wire.DetokenizeResponse:
        async with self._calls.answer("Detokenize", context, request) as call:
            self._sessions.check_model(request.model)
            lengths.check_ids("ids", request.ids, self._limits)
            return wire.DetokenizeResponse(text=await self._sessions.detokenize(call.owner, request.ids))

    async def ListModels(self, request: wire.ListModelsRequest, context: Context) -> wire.ListModelsResponse:
        async with self._calls.answer("ListModels", context, request, is_counted=False):
            return wire.ListModelsResponse(models=[self._model])

    async def GetModel(self, request: wire.GetModelRequest, context: Context) -> wire.Model:
        async with self._calls.answer("GetModel", context, request, is_counted=False):
            self._sessions.check_model(request.model)
            return self._model


async def _write_frames(many: Many, call: Call, context: Context) -> None:
    while (frame := await many.next_frame()) is not None:
        await call.write(context, frame.content)
        many.written(frame)


async def _wait_for(call: Call, context: Context) -> Any:
    """Returns the client's next message, or None when there are no more. The call is idle while it waits."""
    call.is_waiting = True
    try:
        return await _read(call, context)
    finally:
        call.is_waiting = False


async def _read(call: Call, context: Context) -> Any:
    request = await context.read()
    if request is grpc.aio.EOF:
        return None
    if request is UNREADABLE:
        raise message_invalid()
    call.request = request
    if getattr(request, "session_id", ""):  # a stream names its session once
        call.named = request
    return request
