"""Nothing is left of a PredictMany client that attacks in every way at once."""

import asyncio
import contextlib
import random
from typing import Any

import grpc
import pytest
import structlog
from tests.bounds import make_bounds
from tests.server.rpc.served_world import ANN, BOB, Code, ServedWorld, ask, end, serving, until
from tests.worlds import Plan

from carousel.sessions.carried_room import CarriedRoom
from carousel.v1 import language_model_pb2 as wire


def draw_item(dice: random.Random) -> wire.PredictManyRequest.Item:
    tag = dice.choice([0, 1, 2, 3, 4, 5, 6, 2**63, 2**64 - 1])
    if dice.random() < 0.25:
        return end(tag)
    fields: dict[str, Any] = {}
    if dice.random() < 0.5:
        fields["session_id"] = dice.choice(["a", "b", "c", "nowhere", "no name"])
    if dice.random() < 0.1:
        fields["request_id"] = f"r{dice.randrange(5)}"
    if dice.random() < 0.1:
        fields["expected_position"] = dice.randrange(5)
    if dice.random() < 0.1:
        fields["model"] = "other"
    if dice.random() < 0.05:
        fields["state"] = b"no state"
    item = ask(
        tag, dice.choice([1, 2, 99]) if dice.random() < 0.8 else None, k=dice.choice([0, 1, 16, 999, -1]), **fields
    )
    if dice.random() < 0.1:
        item.request.word_prefix = "a"
    if dice.random() < 0.1:
        item.request.input.tokens.ids.extend([3] * dice.randrange(300))
    return item


async def attack(served: ServedWorld, dice: random.Random) -> None:
    """Acts as a client who stops reading, cancels, lets time run out or sends what is no frame, at any moment."""
    metadata = dice.choice([ANN, BOB])
    raw = served.channel.stream_stream("/carousel.v1.LanguageModel/PredictMany")(
        metadata=metadata, timeout=dice.choice([None, 0.05, 5.0])
    )
    reading = asyncio.create_task(_read_all(raw)) if dice.random() < 0.7 else None
    ended = (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError, TimeoutError)
    with contextlib.suppress(*ended):
        async with asyncio.timeout(0.3):
            for _ in range(dice.randrange(30)):
                content = wire.PredictManyRequest(items=[draw_item(dice) for _ in range(dice.randrange(20))])
                cut = dice.randrange(10**6)
                await raw.write(content.SerializeToString()[: cut if cut < 500 else None])
                if dice.random() < 0.3:
                    await asyncio.sleep(dice.random() * 0.01)
            await raw.done_writing()
            if dice.random() < 0.5:
                await raw.code()
    raw.cancel()
    if reading is not None:
        await reading


class TasksLeft(Exception):
    """Says which tasks are left."""


async def _read_all(raw: Any) -> None:
    with contextlib.suppress(grpc.RpcError, grpc.aio.BaseError, asyncio.CancelledError):
        while await raw.read() is not grpc.aio.EOF:
            pass


@pytest.mark.xfail(raises=TasksLeft, strict=False, reason="seen in three runs, and in none of 280 attacks since")
@pytest.mark.parametrize("seed", range(4))
async def test_nothing_is_left_of_an_attack(seed: int) -> None:
    """No slot, task, room or taken session is left, and nothing unexpected is logged."""
    dice = random.Random(seed)
    room = CarriedRoom(10_000, 1000, evicts=True)
    plan = Plan(carried_room=room, bounds=make_bounds(max_held_bytes=2000))
    limits: dict[str, Any] = {"max_waiting_per_stream": 6, "max_sequences_per_stream": 5, "max_message_bytes": 2000}
    with structlog.testing.capture_logs() as lines:
        async with serving(plan, owner="x-owner", **limits) as served:
            for owner in ("ann", "bob"):
                for name in "abc":
                    await served.world.open(name, owner)
            tasks = asyncio.all_tasks()
            for _ in range(6):
                await asyncio.gather(*(attack(served, dice) for _ in range(6)))
            await until(lambda: not served.num_calls)
            await served.until_idle()
            try:
                await until(lambda: len(asyncio.all_tasks()) <= len(tasks))
            except TimeoutError as error:
                raise TasksLeft([repr(one) for one in asyncio.all_tasks() - tasks]) from error
            assert "(0 of" in repr(room)
            assert "(0 of" in repr(served.world.carried)
            for many in served.manys:
                assert not many._sequences
                assert not many._closing
                assert many._num_bytes == many._num_expected_bytes == 0
            stream = served.many(metadata=ANN)
            for name in "abc":
                assert (await stream.ask(ord(name), 1, session_id=name)).position > 0
            assert await stream.finish() is Code.OK
            await served.until_idle()
    assert [line for line in lines if line["event"] == "unexpected error"] == []
