"""What the tests of held sessions share: a client's stream, servers whose streams hold sessions, a clock to turn."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.bounds import make_bounds
from tests.worlds import LIFETIMES, Clock, Plan, World, running_world

from carousel.engine.scheduler import Bounds
from carousel.sessions import residents
from carousel.sessions.requests import Caller, PredictionRequest
from carousel.sessions.resident import Plain
from carousel.state.memory import MemoryStore
from carousel.state.sqlite_store import SqliteStore
from carousel.state.store import Capacity, SessionStore
from carousel.state.write_ahead import WriteAhead

ROW_BYTES = 4 * 4 + 8 + 4 * 4  # of the toy model: state, count, hidden vector


class Stream:
    """Speaks for a client, as the transport does."""

    def __init__(self, world: World, session: str, owner: str = "ann") -> None:
        self.talk = world.sessions.converse(owner)
        self.talk.name(session)
        self._owner = owner

    async def say(self, token: int, request_id: str = "", expected: int | None = None) -> int:
        """Says a token and returns the position after it."""
        named = await self.talk.answer_plain(Plain(token, 2, request_id, expected))
        if named is not None:
            return named.position
        return await self.say_otherwise(token, request_id, expected)

    async def say_otherwise(self, token: int, request_id: str = "", expected: int | None = None, k: int = 2) -> int:
        """Says a token in the ordinary way."""
        caller = Caller(self._owner, "", b"", request_id, expected)
        return (await self.talk.answer(PredictionRequest((token,), k), caller)).standing.position

    @property
    def holds(self) -> bool:
        return self.talk._resident is not None and not self.talk._resident.is_leaving


@contextlib.asynccontextmanager
async def holding(num_streams: int = 1, plan: Plan | None = None) -> AsyncIterator[tuple[World, list[Stream]]]:
    """Opens a stream on each of the sessions 0, 1, ..., which hold them after two turns."""
    async with running_world(plan) as world:
        streams = [Stream(world, str(number)) for number in range(num_streams)]
        for number, stream in enumerate(streams):
            await world.open(str(number))
            for token in (1, 2):
                await stream.say(token)
        yield world, streams
        for stream in streams:
            await stream.talk.close()
        await world.residents.tidy()
        assert world.engine.columns.num_used == 0


def sqlite_plan(path: Path, **changes: Any) -> Plan:
    def make(clock: Clock) -> SessionStore:
        return WriteAhead(SqliteStore(path / "sessions.db", Capacity(1000, 2**30, evicts=True), LIFETIMES, clock=clock))

    return Plan(store=make, **changes)


def memory_plan(max_sessions: int, **changes: Any) -> Plan:
    def make(clock: Clock) -> SessionStore:
        return MemoryStore(Capacity(max_sessions, 2**30, evicts=True), LIFETIMES, clock=clock)

    return Plan(store=make, **changes)


def bounds(num_slots: int) -> Bounds:
    return make_bounds(ring_size=10, max_held_bytes=num_slots * 10 * ROW_BYTES)


async def wait(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moves the loop's clock, which says what is idle, on by the seconds."""
    now = residents._now()
    monkeypatch.setattr(residents, "_now", lambda: now + seconds)
