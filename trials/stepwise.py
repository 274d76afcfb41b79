"""Clients whose turns run in sequence, each expecting the session's last position."""

import asyncio
import random

import grpc
from trials.histories import History, Line, draw_wish
from trials.persistence import Persistence
from trials.plans import Plan, Way
from trials.wire import connect


async def run_stepwise(way: Way, plan: Plan, dice: random.Random) -> History:
    """Makes turns at expected positions, until all are acknowledged."""
    line = Line()
    history = History("stepwise", [line])
    async with connect(way) as stubs:
        client = Persistence(stubs, history, dice)
        try:
            await client.create(way.session_id)
            for _ in range(plan.num_turns):
                wish = draw_wish(dice, plan.vocabulary_size)
                line.turns.append(await client.turn(way.session_id, wish, line.size))
                await asyncio.sleep(plan.pause_seconds * dice.random() * 2)
            line.final_position = await client.position(way.session_id)
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            client.note_trouble(error, line)
    return history


async def run_forgetful(way: Way, plan: Plan, dice: random.Random) -> History:
    """Makes one turn, then none: the session must expire, whatever happens to the servers meanwhile."""
    line = Line()
    history = History("forgetful", [line])
    async with connect(way) as stubs:
        client = Persistence(stubs, history, dice)
        try:
            await client.create(way.session_id)
            line.turns.append(await client.turn(way.session_id, draw_wish(dice, plan.vocabulary_size), 0))
            await asyncio.sleep(plan.idle_seconds + 2)
            await client.position(way.session_id)
            history.trouble = "the session outlived its time"
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            client.note_trouble(error, line)
            if history.trouble_reason == "SESSION_EXPIRED":
                history.trouble = history.trouble_reason = ""
    return history
