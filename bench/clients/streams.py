"""The client process of the benches: N streams at once over C connections. Prints one JSON object.

    python -m bench.clients.streams ADDRESS '{"kind": "generate", "num_streams": 64, ...}'

`generate` lets the server generate and gives the arrival times of tokens; `predict` sends a token, waits for the
candidates and sends the likeliest, on a session each; `many` does so for all of them on a few PredictMany streams,
`multiplexed` through one client of our library, with a predictor each; `echo` exchanges plain bytes with
`harness/echo_server.py`. From their common start on the client's own processor time counts.
"""

import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import grpc
import uvloop
from bench.harness.load import WARM_UP_MESSAGES, Load

from carousel.client import AsyncClient, Prediction
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc, sessions_pb2, sessions_pb2_grpc, types_pb2

_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)  # connections of their own
Message = TypeVar("Message")


async def main(address: str, load: Load) -> None:
    if load.kind == "multiplexed":
        print(json.dumps(await _multiplexed(address, load)))
        return
    channels = [_connect(address, load) for _ in range(load.num_connections)]
    try:
        runs = {"generate": _generate, "predict": _predict, "many": _many, "echo": _echo}
        print(json.dumps(await runs[load.kind](channels, load)))
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


def _connect(address: str, load: Load) -> grpc.aio.Channel:
    if not load.ca:
        return grpc.aio.insecure_channel(address, _OPTIONS)
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(Path(load.ca).read_bytes()), _OPTIONS)


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
        session_id = await _create_session(channel, number, load) if load.has_session else ""
        call = language_model_pb2_grpc.LanguageModelStub(channel).Predict(metadata=load.metadata)

        async def step(last: wire.PredictResponse | None) -> wire.PredictResponse:
            if last is not None:
                sizes.append(last.ByteSize())
            if load.has_session:
                request = _next_request(session_id, number, last)
            else:
                request = wire.PredictRequest(input=_tokens(2 + number if last is None else last.candidates[0].id))
            await call.write(request)
            response: wire.PredictResponse = await call.read()
            return response

        return await _ping_pong(step, load.num_tokens, gate)

    sizes: list[int] = []
    gate = _Gate(load.num_streams)
    seconds = await _at_once(converse, channels, load)
    return {"seconds": seconds, "response_bytes": sum(sizes) // max(1, len(sizes))} | gate.facts()


async def _many(channels: list[grpc.aio.Channel], load: Load) -> dict[str, object]:
    """A sequence's next request goes out in the frame that follows the one with its answer."""

    async def converse(first: int, channel: grpc.aio.Channel) -> list[list[float]]:
        numbers = range(first, load.num_streams, load.num_shared_streams)
        ids = {number: await _create_session(channel, number, load) for number in numbers}
        call = language_model_pb2_grpc.LanguageModelStub(channel).PredictMany()
        last: dict[int, wire.PredictResponse | None] = dict.fromkeys(numbers)
        await _exchange_frames(call, ids, last, WARM_UP_MESSAGES)
        await gate.wait()
        times = await _exchange_frames(call, ids, last, load.num_tokens)
        sizes.extend(answer.ByteSize() for answer in last.values() if answer is not None)
        return list(times.values())

    sizes: list[int] = []
    gate = _Gate(load.num_shared_streams)
    pairs = zip(range(load.num_shared_streams), itertools.cycle(channels), strict=False)
    streams = await asyncio.gather(*(converse(first, channel) for first, channel in pairs))
    seconds = [times for stream in streams for times in stream]
    return {"seconds": seconds, "response_bytes": sum(sizes) // len(sizes)} | gate.facts()


async def _exchange_frames(
    call: grpc.aio.StreamStreamCall, ids: dict[int, str], last: dict[int, wire.PredictResponse | None], num_each: int
) -> dict[int, list[float]]:
    """When each sequence's answers came, the start in front; `last` are their latest ones."""
    times = {number: [time.perf_counter()] for number in ids}
    due, num_left = list(ids), num_each * len(ids)
    while num_left:
        if due:
            frame = wire.PredictManyRequest()
            for number in due:
                frame.items.add(tag=number, request=_next_request(ids[number], number, last[number]))
            await call.write(frame)
        items = (await call.read()).items
        now = time.perf_counter()
        for item in items:
            if not item.HasField("response"):
                raise RuntimeError(f"sequence {item.tag}: {item.status.message}")
            last[item.tag] = item.response
            times[item.tag].append(now)
        due = [item.tag for item in items if len(times[item.tag]) <= num_each]
        num_left -= len(items)
    return times


async def _create_session(channel: grpc.aio.Channel, number: int, load: Load) -> str:
    session_id = f"bench-{time.time_ns()}-{number}"
    request = sessions_pb2.CreateSessionRequest(session_id=session_id)
    await sessions_pb2_grpc.SessionsStub(channel).CreateSession(request, metadata=load.metadata)
    return session_id


def _next_request(session_id: str, number: int, last: wire.PredictResponse | None) -> wire.PredictRequest:
    if last is None:
        return wire.PredictRequest(session_id=session_id, input=_tokens(2 + number), request_id=_new_id())
    token_id, position = last.candidates[0].id, last.position
    return wire.PredictRequest(input=_tokens(token_id), request_id=_new_id(), expected_position=position)


async def _multiplexed(address: str, load: Load) -> dict[str, object]:
    client, gate = AsyncClient(address), _Gate(load.num_streams)
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
    return {"seconds": seconds, "response_bytes": response_bytes} | gate.facts()


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

    gate = _Gate(load.num_streams)
    return {"seconds": await _at_once(converse, channels, load)} | gate.facts()


class _Gate:
    """Where all streams start together, once warm."""

    def __init__(self, num_streams: int) -> None:
        self._barrier = asyncio.Barrier(num_streams)
        self._since = 0.0

    async def wait(self) -> None:
        if await self._barrier.wait() == 0:  # one of them
            self._since = time.process_time()

    def facts(self) -> dict[str, object]:
        return {"client_seconds": time.process_time() - self._since}


async def _at_once(
    converse: Callable[[int, grpc.aio.Channel], Awaitable[list[float]]], channels: list[grpc.aio.Channel], load: Load
) -> list[list[float]]:
    pairs = zip(range(load.num_streams), itertools.cycle(channels), strict=False)
    return list(await asyncio.gather(*(converse(number, channel) for number, channel in pairs)))


async def _ping_pong(
    step: Callable[[Message | None], Awaitable[Message]], num_messages: int, gate: "_Gate"
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
