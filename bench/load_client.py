"""The client process of the benches: N streams at once over C connections. Prints one JSON object.

    python -m bench.load_client ADDRESS '{"kind": "generate", "num_streams": 64, ...}'

`generate` lets the server generate and gives the arrival times of tokens; `predict` sends a token, waits for the
candidates and sends the likeliest, on a session each; `multiplexed` does so through one client of our library, with a
predictor each; `echo` does the same with plain bytes against `echo_server.py`.
"""

import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc
import uvloop

from carousel.client import AsyncClient, Prediction
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc, sessions_pb2, sessions_pb2_grpc, types_pb2

_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)  # connections of their own
WARM_UP_MESSAGES = 20
Message = TypeVar("Message")


@dataclass(frozen=True, slots=True)
class Load:
    """What the client does. `prompt_tokens` above 1 adds one more stream, whose times are not reported: it feeds a
    prompt of so many tokens after a third of the others' tokens."""

    kind: str
    num_streams: int = 1
    num_connections: int = 1
    num_tokens: int = 100  # or messages
    temperature: float = 0.0
    top_p: float = 1.0
    prompt_tokens: int = 1
    request_bytes: int = 50
    response_bytes: int = 250


async def main(address: str, load: Load) -> None:
    if load.kind == "multiplexed":
        print(json.dumps(await _multiplexed(address, load)))
        return
    channels = [grpc.aio.insecure_channel(address, _OPTIONS) for _ in range(load.num_connections)]
    try:
        runs = {"generate": _generate, "predict": _predict, "echo": _echo}
        print(json.dumps(await runs[load.kind](channels, load)))
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


async def _generate(channels: list[grpc.aio.Channel], load: Load) -> list[list[float]]:
    """Arrival times of the tokens of each stream, the time of the call in front."""
    await _one_generation(channels[0], 0, 8, load)
    streams = [
        _one_generation(channel, number, load.num_tokens, load)
        for number, channel in zip(range(load.num_streams), itertools.cycle(channels), strict=False)
    ]
    if load.prompt_tokens == 1:
        return list(await asyncio.gather(*streams))
    running = [asyncio.ensure_future(stream) for stream in streams]
    while True:  # until the streams are under way
        await asyncio.sleep(0.2)
        await _feed(channels[0], load.prompt_tokens)
        if all(one.done() for one in running):
            return [one.result() for one in running]


async def _one_generation(channel: grpc.aio.Channel, number: int, num_tokens: int, load: Load) -> list[float]:
    request = wire.GenerateRequest(
        input=_tokens(2 + number),
        max_tokens=num_tokens,
        sampling=wire.Sampling(temperature=load.temperature, top_p=load.top_p, seed=1),
        content=wire.GenerateRequest.CONTENT_IDS,
    )
    times = [time.perf_counter()]
    async for response in language_model_pb2_grpc.LanguageModelStub(channel).Generate(request):
        times.extend([time.perf_counter()] * len(response.tokens))
    return times


async def _feed(channel: grpc.aio.Channel, num_tokens: int) -> None:
    request = wire.GenerateRequest(input=_tokens(*(2 + n % 1000 for n in range(num_tokens))), max_tokens=0)
    async for _ in language_model_pb2_grpc.LanguageModelStub(channel).Generate(request):
        pass


async def _predict(channels: list[grpc.aio.Channel], load: Load) -> dict[str, object]:
    async def converse(number: int, channel: grpc.aio.Channel) -> list[float]:
        session_id = f"bench-{time.time_ns()}-{number}"
        sessions = sessions_pb2_grpc.SessionsStub(channel)
        await sessions.CreateSession(sessions_pb2.CreateSessionRequest(session_id=session_id))
        call = language_model_pb2_grpc.LanguageModelStub(channel).Predict()
        first = wire.PredictRequest(session_id=session_id, input=_tokens(2 + number), request_id=_new_id())

        async def step(last: wire.PredictResponse | None) -> wire.PredictResponse:
            if last is None:
                await call.write(first)
            else:
                token_id, position = last.candidates[0].id, last.position
                request = wire.PredictRequest(input=_tokens(token_id), request_id=_new_id(), expected_position=position)
                await call.write(request)
                sizes.append(last.ByteSize())
            response: wire.PredictResponse = await call.read()
            return response

        return await _ping_pong(step, load.num_tokens, gate)

    sizes: list[int] = []
    gate = asyncio.Barrier(load.num_streams)
    seconds = await _at_once(converse, channels, load)
    return {"seconds": seconds, "response_bytes": sum(sizes) // max(1, len(sizes))}


async def _multiplexed(address: str, load: Load) -> dict[str, object]:
    """Also the processor time that this process takes for all of it."""
    client, gate, before = AsyncClient(address), asyncio.Barrier(load.num_streams), time.process_time()
    answers: dict[int, Prediction] = {}

    async def converse(number: int) -> list[float]:
        session_id = f"bench-{time.time_ns()}-{number}"
        async with client.session(session_id, keep=True) as session, session.predictor() as predict:

            async def step(last: Prediction | None) -> Prediction:
                answers[number] = await predict([2 + number if last is None else last.candidates[0].id])
                return answers[number]

            return await _ping_pong(step, load.num_tokens, gate)

    async with client:
        seconds = list(await asyncio.gather(*(converse(number) for number in range(load.num_streams))))
    response_bytes = sum(map(_answer_bytes, answers.values())) // len(answers)
    processor_seconds = time.process_time() - before
    return {"seconds": seconds, "response_bytes": response_bytes, "processor_seconds": processor_seconds}


def _answer_bytes(answer: Prediction) -> int:
    """As it came over the wire."""
    candidates = [
        types_pb2.Candidate(id=one.id, log_probability=one.log_probability, text=one.text) for one in answer.candidates
    ]
    return wire.PredictResponse(candidates=candidates, position=answer.position).ByteSize()


async def _echo(channels: list[grpc.aio.Channel], load: Load) -> dict[str, object]:
    request = bytes(load.request_bytes)

    async def converse(number: int, channel: grpc.aio.Channel) -> list[float]:
        call = channel.stream_stream("/echo/Echo")(metadata=(("bytes", str(load.response_bytes)),))

        async def step(last: bytes | None) -> bytes:
            await call.write(request)
            response: bytes = await call.read()
            return response

        return await _ping_pong(step, load.num_tokens, gate)

    gate = asyncio.Barrier(load.num_streams)
    return {"seconds": await _at_once(converse, channels, load)}


async def _at_once(
    converse: Callable[[int, grpc.aio.Channel], Awaitable[list[float]]], channels: list[grpc.aio.Channel], load: Load
) -> list[list[float]]:
    pairs = zip(range(load.num_streams), itertools.cycle(channels), strict=False)
    return list(await asyncio.gather(*(converse(number, channel) for number, channel in pairs)))


async def _ping_pong(
    step: Callable[[Message | None], Awaitable[Message]], num_messages: int, gate: asyncio.Barrier
) -> list[float]:
    """When each answer came, the start in front; all streams start together, once warm."""
    last: Message | None = None
    for _ in range(WARM_UP_MESSAGES):
        last = await step(last)
    await gate.wait()
    times = [time.perf_counter()]
    for _ in range(num_messages):
        last = await step(last)
        times.append(time.perf_counter())
    return times


def _new_id() -> str:
    """As our library makes them."""
    return os.urandom(16).hex()


def _tokens(*ids: int) -> types_pb2.Input:
    return types_pb2.Input(tokens=types_pb2.TokenIds(ids=ids))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], Load(**json.loads(sys.argv[2]))))
