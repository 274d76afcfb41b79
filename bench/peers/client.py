"""The client process of all servers: the same loop, one connection, N sequences at once. Prints one JSON object.

    python -m bench.peers.client trace PATTERN ADDRESS NUM_SEQUENCES NUM_TOKENS
    python -m bench.peers.client speed PATTERN ADDRESS NUM_SEQUENCES SECONDS

`trace` prints each sequence's answers; `speed` tokens per second and latencies in milliseconds, within a window of
SECONDS that opens when all sequences run.
"""

import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
from bench.harness.report import percentile
from bench.peers.carousel_conversations import apart, generate, together
from bench.peers.conversation import Conversation, Way
from bench.peers.lines import Apart
from bench.peers.peer_conversations import MLServerUnary, TritonUnary, triton_apart, triton_together

START_SECONDS = 30.0  # that a server may take to come back
WARM_UP_SECONDS = 1.0
MAX_GENERATED = 16_384  # our server's default limit for one call
GENERATE = "generate"
WAYS: dict[str, Callable[[grpc.aio.Channel], Way]] = {
    "predict": partial(apart, has_sessions=False),
    "predict_session": partial(apart, has_sessions=True),
    "predict_many": partial(together, has_sessions=False),
    "predict_many_session": partial(together, has_sessions=True),
    "triton_stream": triton_apart,
    "triton_many_1": partial(triton_together, num_streams=1),
    "triton_many_2": partial(triton_together, num_streams=2),
    "triton_unary": lambda channel: Apart(partial(TritonUnary, channel)),
    "mlserver_unary": lambda channel: Apart(partial(MLServerUnary, channel)),
}


@dataclass(slots=True)
class Window:
    """What is counted: whatever ends between `opens` and `closes`."""

    opens: float
    closes: float
    num_tokens: int = 0
    seconds: list[float] = field(default_factory=list)

    def count(self, started: float, ended: float, num_tokens: int) -> None:
        """Tokens that were waited for together: the first came late, the others at once."""
        if self.opens <= ended < self.closes:
            self.num_tokens += num_tokens
            self.seconds += [ended - started, *[0.0] * (num_tokens - 1)]

    def as_json(self) -> dict[str, float]:
        return {
            "tokens_per_second": self.num_tokens / (self.closes - self.opens),
            "p50_ms": 1e3 * percentile(self.seconds, 0.5),
            "p99_ms": 1e3 * percentile(self.seconds, 0.99),
        }


def first_token(number: int) -> int:
    """What sequence `number` is fed first; each another."""
    return 2 + number


async def trace(channel: grpc.aio.Channel, pattern: str, num_sequences: int, num_tokens: int) -> list[list[list[int]]]:
    """Answers of each sequence, all at once: candidates likeliest first; of generation, the token alone."""
    if pattern == GENERATE:
        return await asyncio.gather(*(_trace_generation(channel, n, num_tokens) for n in range(num_sequences)))
    async with _started(channel, pattern, num_sequences) as started:
        return await asyncio.gather(*(_trace_steps(one, candidates, num_tokens) for one, candidates in started))


async def measure(channel: grpc.aio.Channel, pattern: str, num_sequences: int, seconds: float) -> dict[str, float]:
    """Tokens per second and latencies of a token, once warm."""
    if pattern == GENERATE:
        window = _open_window(seconds)
        await asyncio.gather(*(_generate(channel, number, window) for number in range(num_sequences)))
        return window.as_json()
    async with _started(channel, pattern, num_sequences) as started:
        window = _open_window(seconds)
        await asyncio.gather(*(_converse(conversation, candidates[0], window) for conversation, candidates in started))
    return window.as_json()


@contextlib.asynccontextmanager
async def _started(
    channel: grpc.aio.Channel, pattern: str, num_sequences: int
) -> AsyncIterator[list[tuple[Conversation, list[int]]]]:
    """Conversations with their first candidates, one after the other: Triton 2.51 crashes when many streams begin
    together."""
    way = WAYS[pattern](channel)
    started = []
    for number in range(num_sequences):
        conversation = way.open()
        started.append((conversation, list(await conversation.step(first_token(number)))))
    yield started
    await asyncio.gather(*(conversation.close() for conversation, _ in started))
    await way.close()


async def _trace_steps(conversation: Conversation, candidates: list[int], num_tokens: int) -> list[list[int]]:
    answers = [candidates]
    while len(answers) < num_tokens:
        answers.append(list(await conversation.step(answers[-1][0])))
    return answers


async def _trace_generation(channel: grpc.aio.Channel, number: int, num_tokens: int) -> list[list[int]]:
    return [[token] async for tokens in generate(channel, first_token(number), num_tokens) for token in tokens]


def _open_window(seconds: float) -> Window:
    opens = time.perf_counter() + WARM_UP_SECONDS
    return Window(opens, opens + seconds)


async def _converse(conversation: Conversation, token: int, window: Window) -> None:
    """The closed loop: the likeliest candidate goes back in."""
    ended = 0.0
    while ended < window.closes:
        started = time.perf_counter()
        token = (await conversation.step(token))[0]
        ended = time.perf_counter()
        window.count(started, ended, 1)


async def _generate(channel: grpc.aio.Channel, number: int, window: Window) -> None:
    for attempt in itertools.count():  # a call ends at the server's limit
        async with contextlib.aclosing(generate(channel, first_token(number + attempt), MAX_GENERATED)) as messages:
            before = time.perf_counter()
            async for tokens in messages:
                now = time.perf_counter()
                window.count(before, now, len(tokens))
                before = now
                if now >= window.closes:
                    return


async def main(command: str, pattern: str, address: str, num_sequences: int, amount: float) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        await asyncio.wait_for(channel.channel_ready(), START_SECONDS)
        result: Any
        if command == "trace":
            result = await trace(channel, pattern, num_sequences, int(amount))
        else:
            result = await measure(channel, pattern, num_sequences, amount)
    print(json.dumps(result))


def run(arguments: list[str]) -> None:
    """On uvloop where it is installed, whichever server it is."""
    command, pattern, address, num_sequences, amount = arguments
    try:
        import uvloop

        make_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    except ImportError:
        make_loop = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(main(command, pattern, address, int(num_sequences), float(amount)))


if __name__ == "__main__":
    run(sys.argv[1:])
