"""A thousand streams that hold sessions are opened, closed and cut at random: at the end the server holds none."""

import argparse
import asyncio
import random
import re
import sys
import tempfile
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from bench.harness.reference_models import write_reference_bundle
from bench.harness.report import print_figure, print_machine
from bench.harness.server_process import ServerProcess, serve
from trials.plans import draw_seed

from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc, sessions_pb2, sessions_pb2_grpc

_TAGS_PER_STREAM = 50
_SHARE_OF_TAGS = 0.5  # of all sequences
_NUM_CHANNELS = 8
_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)  # a connection each
_SETTLED_SECONDS = 5.0  # after which all that was idle is given back, and counted
_ALLOWED = ("ABORTED", "CANCELLED", "OK", "RESOURCE_EXHAUSTED")  # POSITION_MISMATCH; too many turns on one session


@dataclass(slots=True)
class Tally:
    """What was done, and which forbidden answers the server gave."""

    done: Counter[str] = field(default_factory=Counter)
    unexpected: Counter[str] = field(default_factory=Counter)

    def note(self, code: str) -> None:
        if code not in _ALLOWED:
            self.unexpected[code] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=draw_seed())
    parser.add_argument("--streams", type=int, default=1000, help="that are open at once, of both kinds")
    given = parser.parse_args()
    print_machine()
    print_figure("slots.seed", given.seed, "count")
    with tempfile.TemporaryDirectory() as name:
        is_clean = run_and_print(
            write_reference_bundle("small", Path(name)), 60 * given.minutes, given.seed, given.streams
        )
    sys.exit(0 if is_clean else 1)


def run_and_print(bundle: Path, seconds: float, seed: int, num_streams: int) -> bool:
    """Returns whether no slot was lost."""
    with serve(bundle, "--set", f"max_streams={2 * num_streams + 100}") as server:
        tally, most = asyncio.run(_run(server, seconds, seed, num_streams))
        num_lost, num_running = read_gauge(server, "held_sessions"), read_gauge(server, "running_requests")
    for what, count in sorted(tally.done.items()):
        print_figure(f"slots.{what}", count, "count")
    print_figure("slots.most_held", most, "count", at_least=1)
    print_figure("slots.lost", num_lost, "count", at_most=0)
    print_figure("slots.calls_left", num_running, "count", at_most=0)
    print_figure("slots.errors_unexpected", tally.unexpected.total(), "count", at_most=0)
    for code, count in tally.unexpected.most_common():
        print(f"{count} times {code}", file=sys.stderr)
    return most > 0 and not (num_lost or num_running or tally.unexpected)


def read_gauge(server: ServerProcess, name: str) -> float:
    """Returns the sum over its labels."""
    with urllib.request.urlopen(f"http://{server.http_address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return sum(float(value) for value in re.findall(rf"^carousel_{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


async def _run(server: ServerProcess, seconds: float, seed: int, num_streams: int) -> tuple[Tally, float]:
    """Also returns the largest number of slots in use."""
    tally, most = Tally(), 0.0
    channels = [
        grpc.aio.insecure_channel(server.grpc_address, options=(("x", number),)) for number in range(_NUM_CHANNELS)
    ]
    names = [f"s{number}" for number in range(num_streams // 2)]
    await _create(channels[0], names)
    stopped = asyncio.Event()
    num_many = max(1, int(_SHARE_OF_TAGS * num_streams) // _TAGS_PER_STREAM)
    kinds = [_stream] * (num_streams - num_many * _TAGS_PER_STREAM) + [_many] * num_many
    async with asyncio.TaskGroup() as group:
        for number, kind in enumerate(kinds):
            model = language_model_pb2_grpc.LanguageModelStub(channels[number % _NUM_CHANNELS])
            group.create_task(_again_and_again(kind, model, names, random.Random(f"{seed} {number}"), tally, stopped))
        ends = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < ends:
            await asyncio.sleep(min(1.0, seconds / 5))
            most = max(most, await asyncio.to_thread(read_gauge, server, "held_sessions"))
        stopped.set()
    await asyncio.sleep(_SETTLED_SECONDS)
    for channel in channels:
        await channel.close()
    return tally, most


async def _create(channel: grpc.aio.Channel, names: list[str]) -> None:
    sessions = sessions_pb2_grpc.SessionsStub(channel)
    for name in names:
        await sessions.CreateSession(sessions_pb2.CreateSessionRequest(session_id=name))


async def _again_and_again(
    kind: Any, model: Any, names: list[str], dice: random.Random, tally: Tally, stopped: asyncio.Event
) -> None:
    while not stopped.is_set():
        try:
            await kind(model, names, dice, tally)
        except grpc.aio.AioRpcError as error:
            tally.note(error.code().name)


async def _stream(model: Any, names: list[str], dice: random.Random, tally: Tally) -> None:
    """One Predict stream: a few messages, then a proper end, or none."""
    call = model.Predict()
    tally.done["streams"] += 1
    session, is_cut = dice.choice(names), dice.random() < 0.3
    for number in range(dice.randrange(1, 12)):
        await call.write(_ask(dice, session if number == 0 else ""))
        if is_cut and dice.random() < 0.2:
            break
        if await call.read() is grpc.aio.EOF:
            break
        tally.done["turns"] += 1
        if dice.random() < 0.1:
            await asyncio.sleep(dice.random() * 0.5)  # it may be given back meanwhile
    if is_cut:
        tally.done["cut"] += 1
        call.cancel()
    else:
        await call.done_writing()
    tally.note((await call.code()).name)


async def _many(model: Any, names: list[str], dice: random.Random, tally: Tally) -> None:
    """One PredictMany stream: frames of requests and ends of tags, then a proper end, or none."""
    call = model.PredictMany()
    tally.done["streams_of_many"] += 1
    reading = asyncio.create_task(_read_all(call, tally))
    tags: dict[int, str] = {}
    try:
        for _ in range(dice.randrange(1, 40)):
            await call.write(_frame(names, dice, tags, tally))
            await asyncio.sleep(dice.choice((0.0, 0.01, 0.05)))
        if dice.random() < 0.4:
            call.cancel()
        else:
            await call.done_writing()
        tally.note((await call.code()).name)
    finally:
        call.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _read_all(call: Any, tally: Tally) -> None:
    while (frame := await call.read()) is not grpc.aio.EOF:
        tally.done["turns_of_many"] += len(frame.items)
        for item in frame.items:
            if item.HasField("status"):
                tally.note(grpc.StatusCode(_codes()[item.status.code]).name)


def _codes() -> dict[int, Any]:
    return {code.value[0]: code for code in grpc.StatusCode}


def _frame(names: list[str], dice: random.Random, tags: dict[int, str], tally: Tally) -> wire.PredictManyRequest:
    frame = wire.PredictManyRequest()
    for tag in dice.sample(range(_TAGS_PER_STREAM), dice.randrange(1, _TAGS_PER_STREAM)):
        if tag in tags and dice.random() < 0.1:
            frame.items.add(tag=tag, close=True)
            del tags[tag]
            tally.done["closed_tags"] += 1
        else:
            session = tags.setdefault(tag, dice.choice(names))
            frame.items.add(tag=tag, request=_ask(dice, session))
    return frame


def _ask(dice: random.Random, session: str) -> wire.PredictRequest:
    request = wire.PredictRequest(session_id=session, k=3)
    request.input.tokens.ids.extend(dice.randrange(2, 100) for _ in range(1 if dice.random() < 0.95 else 3))
    if dice.random() < 0.05:
        request.expected_position = 10**9
    return request


if __name__ == "__main__":
    main()
