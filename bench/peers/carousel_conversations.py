"""Conversations with our server: predictions on a stream, alone or on a session, and generation on the server's side.

Messages are made once and changed in place, for every server alike, so that clients cost as little as they can.
"""

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from typing import Any

import grpc
from bench.peers.conversation import NUM_CANDIDATES, Conversation, ServerFailed
from bench.peers.lines import Apart, Line, OwnStream, SharedStream, Together

from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc, sessions_pb2, sessions_pb2_grpc, types_pb2

_NUM_SHARED_STREAMS = 2  # so that server and client overlap


class CarouselPredict:
    """A sequence whose state its line carries."""

    def __init__(self, line: Line) -> None:
        self._line = line
        tokens = types_pb2.TokenIds(ids=[0])
        self._request = wire.PredictRequest(input=types_pb2.Input(tokens=tokens), k=NUM_CANDIDATES)
        self._ids = self._request.input.tokens.ids

    async def step(self, token: int) -> Sequence[int]:
        self._ids[0] = token
        response = await self._line.ask(self._request)
        return [candidate.id for candidate in response.candidates]

    async def close(self) -> None:
        await self._line.close()


class CarouselSession(CarouselPredict):
    """The same on a session, which the server keeps up to date after every message."""

    def __init__(self, line: Line, channel: grpc.aio.Channel) -> None:
        super().__init__(line)
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


def apart(channel: grpc.aio.Channel, *, has_sessions: bool) -> Apart:
    """A Predict stream for each sequence."""
    stub = language_model_pb2_grpc.LanguageModelStub(channel)

    def start() -> Conversation:
        line = OwnStream(stub.Predict())
        return CarouselSession(line, channel) if has_sessions else CarouselPredict(line)

    return Apart(start)


def together(channel: grpc.aio.Channel, *, has_sessions: bool) -> Together:
    """Two PredictMany streams for all sequences."""
    stub = language_model_pb2_grpc.LanguageModelStub(channel)
    streams = [SharedStream(stub.PredictMany(), _pack, _unpack) for _ in range(_NUM_SHARED_STREAMS)]
    return Together(streams, lambda line: CarouselSession(line, channel) if has_sessions else CarouselPredict(line))


def _pack(asked: list[tuple[int, Any]]) -> Iterable[wire.PredictManyRequest]:
    """One frame."""
    frame = wire.PredictManyRequest()
    for tag, request in asked:
        frame.items.add(tag=tag, request=request)
    return [frame] if asked else []


def _unpack(frame: wire.PredictManyResponse) -> Iterator[tuple[int, Any]]:
    for item in frame.items:
        yield item.tag, item.response if item.HasField("response") else ServerFailed(item.status.message)


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
