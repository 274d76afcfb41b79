"""Conversations with our server: a Predict stream, alone or on a session, and generation on the server's side.

Messages are made once and changed in place, for every server alike, so that clients cost as little as they can.
"""

from collections.abc import AsyncGenerator, Sequence

import grpc
from bench.peers.conversation import NUM_CANDIDATES, exchange

from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc, sessions_pb2, sessions_pb2_grpc, types_pb2


class CarouselPredict:
    """A Predict stream that carries the state."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._call = language_model_pb2_grpc.LanguageModelStub(channel).Predict()
        tokens = types_pb2.TokenIds(ids=[0])
        self._request = wire.PredictRequest(input=types_pb2.Input(tokens=tokens), k=NUM_CANDIDATES)
        self._ids = self._request.input.tokens.ids

    async def step(self, token: int) -> Sequence[int]:
        self._ids[0] = token
        response = await exchange(self._call, self._request)
        return [candidate.id for candidate in response.candidates]

    async def close(self) -> None:
        await self._call.done_writing()


class CarouselSession(CarouselPredict):
    """A Predict stream on a session, which the server keeps up to date after every message."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        super().__init__(channel)
        self._sessions = sessions_pb2_grpc.SessionsStub(channel)
        self._session_id = ""

    async def step(self, token: int) -> Sequence[int]:
        if self._session_id:
            return await super().step(token)
        session = await self._sessions.CreateSession(sessions_pb2.CreateSessionRequest())
        self._session_id = self._request.session_id = session.session_id
        candidates = await super().step(token)
        self._request.session_id = ""  # the first message names it
        return candidates

    async def close(self) -> None:
        await super().close()
        await self._sessions.DeleteSession(sessions_pb2.DeleteSessionRequest(session_id=self._session_id))


async def generate(channel: grpc.aio.Channel, token: int, num_tokens: int) -> AsyncGenerator[list[int], None]:
    """Our server-side generation, greedy: the tokens of each message."""
    call = language_model_pb2_grpc.LanguageModelStub(channel).Generate(
        wire.GenerateRequest(
            input=types_pb2.Input(tokens=types_pb2.TokenIds(ids=[token])),
            sampling=wire.Sampling(temperature=0),
            max_tokens=num_tokens,
            content=wire.GenerateRequest.CONTENT_IDS,
        )
    )
    try:
        async for response in call:
            if response.tokens:
                yield [generated.id for generated in response.tokens]
    finally:
        call.cancel()
