"""A caller with a small load: one token in, ten candidates out, a hundred times a second, on a session."""

import asyncio
import json
import sys
import time

import grpc
import uvloop
from trials.abuses import OWNER_KEY

from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc, sessions_pb2, sessions_pb2_grpc, types_pb2

_METADATA = ((OWNER_KEY, "victim"),)
_PAUSE_SECONDS = 0.01
_SESSION = "mine"


async def run(address: str, seconds: float) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        round_trips: list[float] = []
        failures: list[str] = []
        request = sessions_pb2.CreateSessionRequest(session_id=_SESSION)
        try:
            await sessions_pb2_grpc.SessionsStub(channel).CreateSession(request, metadata=_METADATA)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                failures.append(str(error.details()))
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            try:
                await _converse(channel, end, round_trips)
            except grpc.aio.AioRpcError as error:
                failures.append(f"{error.code().name}: {error.details()}")
                await asyncio.sleep(_PAUSE_SECONDS)
        print(json.dumps({"round_trips": round_trips, "failures": failures}))


async def _converse(channel: grpc.aio.Channel, end: float, round_trips: list[float]) -> None:
    """Uses one stream, until the time is up or the stream breaks."""
    call = language_model_pb2_grpc.LanguageModelStub(channel).Predict(metadata=_METADATA)
    while time.perf_counter() < end:
        request = wire.PredictRequest(session_id=_SESSION, input=types_pb2.Input(tokens=types_pb2.TokenIds(ids=[5])))
        started = time.perf_counter()
        await call.write(request)
        if await call.read() is grpc.aio.EOF:
            await call  # raises how it ended
            return
        round_trips.append(time.perf_counter() - started)
        await asyncio.sleep(_PAUSE_SECONDS)
    call.cancel()


if __name__ == "__main__":
    uvloop.run(run(sys.argv[1], float(sys.argv[2])))
