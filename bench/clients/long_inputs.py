"""The client process of `ingest.py` and `score.py`: sequences are fed or scored all at once. Prints a JSON object.

python -m bench.clients.long_inputs ADDRESS ingest|score NUM_SEQUENCES NUM_TOKENS VOCABULARY_SIZE
"""

import asyncio
import json
import random
import sys
import time

import grpc
import uvloop

from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc, sessions_pb2, sessions_pb2_grpc, types_pb2

_WARM_UP_TOKENS = 8


def draw_sequence(number: int, num_tokens: int, vocabulary_size: int) -> list[int]:
    """Token ids; the same number gives the same sequence in every process."""
    return random.Random(number).choices(range(vocabulary_size), k=num_tokens)


async def ingest(channel: grpc.aio.Channel, session_id: str, ids: list[int]) -> float:
    """Feed a session and generate nothing. There are no log-probabilities to sum up: 0."""
    given = types_pb2.Input(tokens=types_pb2.TokenIds(ids=ids))
    request = wire.GenerateRequest(session_id=session_id, input=given, max_tokens=0)
    async for response in language_model_pb2_grpc.LanguageModelStub(channel).Generate(request):
        assert response.finished.position == len(ids)
    return 0.0


async def score(channel: grpc.aio.Channel, ids: list[int]) -> float:
    """Rate every token; their log-probability as the server sums it up."""
    request = wire.ScoreRequest(input=types_pb2.Input(tokens=types_pb2.TokenIds(ids=ids)))
    num_rated, log_probability = 0, 0.0
    async for response in language_model_pb2_grpc.LanguageModelStub(channel).Score(request):
        num_rated += len(response.tokens)
        log_probability += response.totals.log_probability
    assert num_rated == len(ids)
    return log_probability


async def main(address: str, kind: str, num_sequences: int, num_tokens: int, vocabulary_size: int) -> None:
    sequences = [draw_sequence(number, num_tokens, vocabulary_size) for number in range(num_sequences)]
    async with grpc.aio.insecure_channel(address) as channel:
        await score(channel, sequences[0][:_WARM_UP_TOKENS])
        if kind == "ingest":
            opened = [await open_session(channel) for _ in sequences]
            calls = [ingest(channel, session_id, ids) for session_id, ids in zip(opened, sequences, strict=True)]
        else:
            calls = [score(channel, ids) for ids in sequences]
        started = time.perf_counter()
        log_probabilities = await asyncio.gather(*calls)
        seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "log_probability": sum(log_probabilities)}))


async def open_session(channel: grpc.aio.Channel) -> str:
    session = await sessions_pb2_grpc.SessionsStub(channel).CreateSession(sessions_pb2.CreateSessionRequest())
    return str(session.session_id)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
