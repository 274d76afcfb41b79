"""What the tests of calls on sessions share: plans of a server, turns on it, and what it refuses."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from tests.fakes import FaultyStore
from tests.worlds import LIFETIMES, ROOMY, Plan, World, running_world

from carousel.errors import CarouselError, StateRefused
from carousel.sessions.operations import Point
from carousel.sessions.requests import Caller, PredictionRequest
from carousel.state.memory import MemoryStore
from carousel.state.store import Capacity
from carousel.turns import Snapshot

NOW = Point()


def store_of(capacity: Capacity) -> Plan:
    return Plan(store=lambda clock: MemoryStore(capacity, LIFETIMES, clock=clock))


def faulty_plan() -> Plan:
    return Plan(store=lambda clock: FaultyStore(MemoryStore(ROOMY, LIFETIMES, clock=clock)))


async def feed(world: World, *ids: int, session_id: str = "s") -> None:
    await world.sessions.predict(Caller("ann", session_id), PredictionRequest(ids))


def fed(world: World, *ids: int) -> Snapshot:
    return world.oracle.feed(world.oracle.start(), ids)


@contextlib.asynccontextmanager
async def gated_creations() -> AsyncIterator[tuple[World, FaultyStore, asyncio.Event, asyncio.Event]]:
    """Yields a server with session `s`, where a state is good once; its store; an event that the store sets when it
    begins to write a new session; and the gate that the write waits for, which is open at first."""
    writing, may_write = asyncio.Event(), asyncio.Event()

    async def pause(name: str) -> None:
        if name == "create":
            writing.set()
            await may_write.wait()

    plan = Plan(store=lambda clock: FaultyStore(MemoryStore(ROOMY, LIFETIMES, clock=clock), pause), replays_seals=False)
    async with running_world(plan) as world:
        assert isinstance(world.store, FaultyStore)
        may_write.set()
        await world.open()
        yield world, world.store, writing, may_write


async def refusal(world: World, owner: str, session_id: str) -> CarouselError:
    """Returns the error of every call that names the session: they are all alike."""
    calls = [
        world.operations.get(owner, session_id),
        world.operations.delete(owner, session_id),
        world.operations.history(owner, session_id),
        world.operations.fork(owner, session_id, NOW, (), 1),
        world.operations.rewind(owner, session_id, NOW, None),
        world.operations.mark(owner, session_id, "c"),
        world.operations.export(owner, session_id, NOW, 9),
    ]
    errors = []
    for call in calls:
        with pytest.raises(CarouselError) as refused:
            await call
        errors.append(refused.value)
    assert len({(type(error), str(error), str(error.details)) for error in errors}) == 1
    return errors[0]


async def assert_refused(world: World, blob: bytes, why: str, owner: str = "ann") -> None:
    with pytest.raises(StateRefused) as refused:
        await world.operations.import_state(owner, blob, "t")
    assert refused.value.details == {"why": why}
