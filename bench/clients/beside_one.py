"""The client process of `ingest.py` that feeds sequences alone, and then beside one stream. Prints one JSON object.

python -m bench.clients.beside_one ADDRESS NUM_SEQUENCES NUM_TOKENS VOCABULARY_SIZE
"""

import asyncio
import itertools
import json
import sys
import time

import grpc
import uvloop
from bench.clients.long_inputs import draw_sequence, ingest, open_session

from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc, types_pb2

_STREAM_TOKENS = 16_000
_WARM_UP_TOKENS = 30
_CALM_TOKENS = 200


class Stream:
    """A generation of its own, whose tokens' arrivals are noted until it is stopped."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        request = wire.GenerateRequest(
            input=types_pb2.Input(tokens=types_pb2.TokenIds(ids=[2])),
            max_tokens=_STREAM_TOKENS,
            sampling=wire.Sampling(temperature=0),
            content=wire.GenerateRequest.CONTENT_IDS,
        )
        self._call = language_model_pb2_grpc.LanguageModelStub(channel).Generate(request)
        self._times: list[float] = []
        self._has_token = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    async def until(self, num_tokens: int) -> float:
        """When so many tokens have come."""
        async with self._has_token:
            await self._has_token.wait_for(lambda: len(self._times) >= num_tokens or self._reading.done())
        return time.perf_counter()

    async def stop(self) -> None:
        self._call.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    def gaps(self, since: float, until: float) -> list[float]:
        """Seconds between tokens in that time."""
        inside = [at for at in self._times if since <= at <= until]
        return [after - before for before, after in itertools.pairwise(inside)]

    async def _read(self) -> None:
        async for response in self._call:
            self._times.extend([time.perf_counter()] * len(response.tokens))
            async with self._has_token:
                self._has_token.notify_all()


async def main(address: str, num_sequences: int, num_tokens: int, vocabulary_size: int) -> None:
    sequences = [draw_sequence(number, num_tokens, vocabulary_size) for number in range(num_sequences)]
    async with grpc.aio.insecure_channel(address) as channel:
        alone = await _feed(channel, sequences)
        stream = Stream(channel)
        try:
            warm = await stream.until(_WARM_UP_TOKENS)
            calm = await stream.until(_WARM_UP_TOKENS + _CALM_TOKENS)
            beside = await _feed(channel, sequences)
            done = time.perf_counter()
        finally:
            await stream.stop()
    found = {"alone": alone, "beside": beside, "calm": stream.gaps(warm, calm), "meanwhile": stream.gaps(calm, done)}
    print(json.dumps(found))


async def _feed(channel: grpc.aio.Channel, sequences: list[list[int]]) -> float:
    """Seconds until all are fed, a session each."""
    sessions = [await open_session(channel) for _ in sequences]
    started = time.perf_counter()
    await asyncio.gather(*(ingest(channel, session, ids) for session, ids in zip(sessions, sequences, strict=True)))
    return time.perf_counter() - started


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], *map(int, sys.argv[2:])))
