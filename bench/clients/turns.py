"""The client process of `durability.py`: N sessions that take turns at once. Prints one JSON object.

python -m bench.clients.turns ADDRESS NUM_SESSIONS NUM_TURNS NUM_TOKENS
"""

import asyncio
import json
import sys
import time
import uuid

import grpc
import uvloop

from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc, sessions_pb2, sessions_pb2_grpc, types_pb2


async def take_turns(channel: grpc.aio.Channel, number: int, num_turns: int, num_tokens: int) -> list[float]:
    """Seconds of each turn of one session."""
    model = language_model_pb2_grpc.LanguageModelStub(channel)
    sessions = sessions_pb2_grpc.SessionsStub(channel)
    session = await sessions.CreateSession(sessions_pb2.CreateSessionRequest())
    seconds, position = [], 0
    for _ in range(num_turns):
        request = wire.GenerateRequest(
            session_id=session.session_id,
            request_id=str(uuid.uuid4()),
            expected_position=position,
            input=types_pb2.Input(tokens=types_pb2.TokenIds(ids=[2 + number])),
            sampling=wire.Sampling(temperature=0),
            max_tokens=num_tokens,
            content=wire.GenerateRequest.CONTENT_IDS,
        )
        started = time.perf_counter()
        async for response in model.Generate(request):
            if response.HasField("finished"):
                position = response.finished.position
        seconds.append(time.perf_counter() - started)
    return seconds


async def main(address: str, num_sessions: int, num_turns: int, num_tokens: int) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        await take_turns(channel, 0, 2, num_tokens)
        started = time.perf_counter()
        seconds = await asyncio.gather(
            *(take_turns(channel, number, num_turns, num_tokens) for number in range(num_sessions))
        )
        wall = time.perf_counter() - started
    tokens_per_second = num_sessions * num_turns * num_tokens / wall
    print(json.dumps({"tokens_per_second": tokens_per_second, "turns": [one for many in seconds for one in many]}))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
