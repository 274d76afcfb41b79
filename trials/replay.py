"""Runs the same turns on one quiet server, each session's in sequence."""

import asyncio
from collections.abc import Sequence

from trials.histories import Turn
from trials.persistence import SECONDS, new_id
from trials.plans import Way
from trials.wire import Stubs, connect, open_turn, read_turn

from carousel.v1 import sessions_pb2 as pb

_AT_ONCE = 64


async def replay(address: str, lines: Sequence[Sequence[Turn]]) -> list[list[Turn]]:
    """Returns the quiet server's answers to the turns of each line."""
    room = asyncio.Semaphore(_AT_ONCE)
    async with connect(Way(address, "", "")) as stubs:

        async def play(turns: Sequence[Turn]) -> list[Turn]:
            async with room:
                return await _play(stubs, turns)

        return await asyncio.gather(*(play(turns) for turns in lines))


async def _play(stubs: Stubs, turns: Sequence[Turn]) -> list[Turn]:
    session = await stubs.sessions.CreateSession(pb.CreateSessionRequest(), timeout=SECONDS)
    played: list[Turn] = []
    for turn in turns:
        position = played[-1].position if played else 0
        call = open_turn(stubs, turn.wish, session.session_id, new_id(), position, SECONDS)
        played.append(await read_turn(call, turn.wish))
    await stubs.sessions.DeleteSession(pb.DeleteSessionRequest(session_id=session.session_id), timeout=SECONDS)
    return played
