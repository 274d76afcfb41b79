"""Clients with several open turns on one session: each turn is applied once, in any order."""

import asyncio
import random

import grpc
from trials.histories import History, Line, draw_wish
from trials.persistence import Persistence
from trials.plans import Plan, Way
from trials.wire import connect

_AT_ONCE = (2, 8)  # one runs and the server lets up to eight wait


async def run_overlapping(way: Way, plan: Plan, dice: random.Random) -> History:
    """At the end the turns lie end to end and cover the session."""
    line = Line()
    history = History("overlapping", [line])
    async with connect(way) as stubs:
        client = Persistence(stubs, history, dice)

        async def take_turn() -> None:
            line.turns.append(await client.turn(way.session_id, draw_wish(dice, plan.vocabulary_size)))

        try:
            await client.create(way.session_id)
            while (num_left := plan.num_turns - len(line.turns)) > 0:
                num_now = min(num_left, dice.randint(*_AT_ONCE))
                async with asyncio.TaskGroup() as group:
                    for _ in range(num_now):
                        group.create_task(take_turn())
                await asyncio.sleep(plan.pause_seconds * num_now * dice.random() * 2)
            line.final_position = await client.position(way.session_id)
        except* (grpc.aio.AioRpcError, TimeoutError) as errors:
            client.note_trouble(errors.exceptions[0], line)
    return history
