"""The client process of `serving.py`: N streams that generate at once. Prints one JSON object of raw times.

python -m bench.generation_client ADDRESS NUM_STREAMS NUM_TOKENS TEMPERATURE TOP_P
"""

import asyncio
import json
import sys
import time

import grpc

from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc, types_pb2


async def generate(
    stub: language_model_pb2_grpc.LanguageModelStub, number: int, num_tokens: int, sampling: wire.Sampling
) -> list[float]:
    """Arrival times of the tokens, the time of the call in front."""
    prompt = types_pb2.Input(tokens=types_pb2.TokenIds(ids=[2 + number]))
    content = wire.GenerateRequest.CONTENT_IDS
    request = wire.GenerateRequest(input=prompt, max_tokens=num_tokens, sampling=sampling, content=content)
    times = [time.perf_counter()]
    async for response in stub.Generate(request):
        times.extend([time.perf_counter()] * len(response.tokens))
    return times


async def main(address: str, num_streams: int, num_tokens: int, temperature: float, top_p: float) -> None:
    sampling = wire.Sampling(temperature=temperature, top_p=top_p, seed=1)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = language_model_pb2_grpc.LanguageModelStub(channel)
        await generate(stub, 0, 8, sampling)
        times = await asyncio.gather(*(generate(stub, n, num_tokens, sampling) for n in range(num_streams)))
    print(json.dumps(times))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5])))
