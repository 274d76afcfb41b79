"""The two services of carousel.v1: convert, call one method of `Sessions`, convert back."""

import re
from collections.abc import AsyncIterator
from contextlib import aclosing

from google.protobuf import empty_pb2

from carousel.errors import InvalidRequest
from carousel.rpc import convert
from carousel.rpc.calls import Calls, Context
from carousel.sessions import checks
from carousel.sessions.requests import Caller
from carousel.sessions.service import Sessions
from carousel.turns import Snapshot
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc, sessions_pb2, sessions_pb2_grpc

_DEFAULT_PAGE = 50
_MAX_PAGE = 1000
_PAGE_TOKEN = re.compile(r"[0-9]{1,18}")


class LanguageModelServicer(language_model_pb2_grpc.LanguageModelServicer):
    """Turns on the wire. `model` is what GetModel answers."""

    def __init__(self, sessions: Sessions, model: wire.Model, calls: Calls) -> None:
        self._sessions = sessions
        self._model = model
        self._calls = calls

    async def Generate(self, request: wire.GenerateRequest, context: Context) -> AsyncIterator[wire.GenerateResponse]:
        async with self._calls.answer("Generate", context) as call:
            self._sessions.check_model(request.model)
            caller = Caller(call.owner, request.session_id)
            pieces = self._sessions.generate(caller, convert.to_generation(request))
            async with aclosing(pieces):
                async for piece in pieces:
                    for part in convert.split_piece(piece):
                        response = convert.from_generation(part, request.content, self._sessions.tokenizer)
                        if response.ByteSize():
                            yield response
                    if piece.end is not None:
                        call.facts["num_input_tokens"] = piece.end.num_input_tokens
                        call.facts["num_generated_tokens"] = piece.end.num_generated_tokens

    async def Predict(
        self, request_iterator: AsyncIterator[wire.PredictRequest], context: Context
    ) -> AsyncIterator[wire.PredictResponse]:
        async with self._calls.answer("Predict", context) as call:
            caller: Caller | None = None
            carried: Snapshot | None = None  # the sequence of a stream without a session
            num_messages = 0
            call.is_waiting = True
            async for request in request_iterator:
                call.is_waiting = False
                if caller is None:
                    self._sessions.check_model(request.model)
                    caller = Caller(call.owner, request.session_id)
                asked = convert.to_prediction(request)
                if caller.session_id:
                    prediction = await self._sessions.predict(caller, asked)
                else:
                    prediction, carried = await self._sessions.predict_unkept(carried, asked)
                num_messages += 1
                call.facts["num_messages"] = num_messages
                yield convert.from_prediction(prediction, self._sessions.tokenizer)
                call.is_waiting = True

    async def Score(self, request: wire.ScoreRequest, context: Context) -> AsyncIterator[wire.ScoreResponse]:
        async with self._calls.answer("Score", context) as call:
            self._sessions.check_model(request.model)
            pieces = self._sessions.score(Caller(call.owner, request.session_id), convert.to_scoring(request))
            async with aclosing(pieces):
                async for piece in pieces:
                    yield convert.from_scoring(piece)
                    if piece.totals is not None:
                        call.facts["num_input_tokens"] = piece.totals.num_tokens

    async def Tokenize(self, request: wire.TokenizeRequest, context: Context) -> wire.TokenizeResponse:
        async with self._calls.answer("Tokenize", context):
            self._sessions.check_model(request.model)
            tokenizer = self._sessions.tokenizer
            return convert.from_tokens(tokenizer.encode(request.text), tokenizer)

    async def Detokenize(self, request: wire.DetokenizeRequest, context: Context) -> wire.DetokenizeResponse:
        async with self._calls.answer("Detokenize", context):
            self._sessions.check_model(request.model)
            checks.check_ids("ids", request.ids, self._sessions.tokenizer.size)
            return wire.DetokenizeResponse(text=self._sessions.tokenizer.decode(request.ids))

    async def ListModels(self, request: wire.ListModelsRequest, context: Context) -> wire.ListModelsResponse:
        async with self._calls.answer("ListModels", context):
            return wire.ListModelsResponse(models=[self._model])

    async def GetModel(self, request: wire.GetModelRequest, context: Context) -> wire.Model:
        async with self._calls.answer("GetModel", context):
            self._sessions.check_model(request.model)
            return self._model


class SessionsServicer(sessions_pb2_grpc.SessionsServicer):
    """The life of sessions on the wire."""

    def __init__(self, sessions: Sessions, calls: Calls) -> None:
        self._sessions = sessions
        self._calls = calls
        self._model = sessions.manifest.name

    async def CreateSession(self, request: sessions_pb2.CreateSessionRequest, context: Context) -> sessions_pb2.Session:
        async with self._calls.answer("CreateSession", context) as call:
            self._sessions.check_model(request.model)
            return convert.from_session(self._sessions.create(call.owner, request.session_id), self._model)

    async def GetSession(self, request: sessions_pb2.GetSessionRequest, context: Context) -> sessions_pb2.Session:
        async with self._calls.answer("GetSession", context) as call:
            return convert.from_session(self._sessions.get(call.owner, request.session_id), self._model)

    async def ListSessions(
        self, request: sessions_pb2.ListSessionsRequest, context: Context
    ) -> sessions_pb2.ListSessionsResponse:
        async with self._calls.answer("ListSessions", context) as call:
            size = request.page_size or _DEFAULT_PAGE
            if not 0 < size <= _MAX_PAGE:
                raise InvalidRequest("page_size", f"must be from 1 to {_MAX_PAGE}, not {request.page_size}")
            if request.page_token and not _PAGE_TOKEN.fullmatch(request.page_token):
                raise InvalidRequest("page_token", "is not one that this server made")
            found = self._sessions.list(call.owner, int(request.page_token or 0), size + 1)
            page = found[:size]
            return sessions_pb2.ListSessionsResponse(
                sessions=[convert.from_session(session, self._model) for session in page],
                next_page_token=str(page[-1].number) if len(found) > size else "",
            )

    async def DeleteSession(self, request: sessions_pb2.DeleteSessionRequest, context: Context) -> empty_pb2.Empty:
        async with self._calls.answer("DeleteSession", context) as call:
            self._sessions.delete(call.owner, request.session_id)
            return empty_pb2.Empty()
