"""A session ends by deletion, expiry or eviction; its owner learns how, and watchers are told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from tests.server.sessions.session_calls import feed, refusal, store_of
from tests.worlds import World, running_world

from carousel.errors import Overloaded, SessionDeleted, SessionEvicted, SessionExpired
from carousel.sessions.events import EventKind, SessionEvent
from carousel.state.store import Capacity


@contextlib.asynccontextmanager
async def heard(world: World, owner: str = "ann") -> AsyncIterator[list[SessionEvent]]:
    """Collects what a watcher hears inside the block; the list is full when the block ends."""
    found: list[SessionEvent] = []
    with world.operations.watch(owner) as events:
        yield found
        while True:
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            if not waiting.done():
                waiting.cancel()
                return
            found.append(waiting.result())


async def test_a_deleted_session_is_known_as_deleted() -> None:
    """Its owner gets the ending with the time; its parts are gone and the name is free for a new one."""
    async with running_world() as world:
        await world.open()
        world.clock.advance(7.5)
        await world.operations.delete("ann", "s")
        error = await refusal(world, "ann", "s")
        assert type(error) is SessionDeleted
        assert error.details == {"ending": "deleted", "ended_at": "1000007.500"}
        await world.open(owner="bob")
        assert type(await refusal(world, "ann", "s")) is SessionDeleted
        assert (await world.open()).position == 0


@pytest.mark.parametrize(("seconds", "ending"), [((100,), "idle"), ((90,) * 11 + (10,), "age")])
@pytest.mark.parametrize("is_swept", [True, False])
async def test_an_expired_session_says_why(seconds: tuple[int, ...], ending: str, is_swept: bool) -> None:
    """The reason is idleness or age, whether the sweep or a call finds it first."""
    async with running_world() as world:
        await world.open()
        for number, one in enumerate(seconds):
            if number:
                await feed(world, 1)
            world.clock.advance(one - 0.25)
            assert (await world.operations.get("ann", "s")).position == number
            world.clock.advance(0.25)
        if is_swept:
            await world.operations.expire()
            assert await world.store.num_live() == 0
        error = await refusal(world, "ann", "s")
        assert (type(error), error.details["ending"]) == (SessionExpired, ending)
        assert await world.store.num_live() == 0
        assert world.value("sessions_ended_total", reason="expired") == 1


async def test_an_evicted_session_says_so() -> None:
    """The least recently used session makes room; its ending differs from an expired one's, and is counted and
    announced."""
    async with running_world(store_of(Capacity(2, 2**20, evicts=True))) as world:
        await world.open("a")
        await world.open("b")
        await feed(world, 1, session_id="a")
        async with heard(world) as events:
            await world.open("c")
        error = await refusal(world, "ann", "b")
        assert (type(error), error.details["ending"]) == (SessionEvicted, "evicted")
        assert [(one.kind, one.session_id) for one in events] == [(EventKind.EVICTED, "b"), (EventKind.CREATED, "c")]
        assert world.value("sessions_ended_total", reason="evicted") == 1
        assert (await world.operations.get("ann", "a")).position == 1


async def test_a_full_store_refuses_until_sessions_expire() -> None:
    """Without eviction, one more is Overloaded; expired sessions make room by themselves."""
    async with running_world(store_of(Capacity(2, 2**20, evicts=False))) as world:
        await world.open("a")
        await world.open("b")
        with pytest.raises(Overloaded):
            await world.open("c")
        world.clock.advance(100)
        await world.open("c")
        assert [row.id for row in await world.operations.list_owned("ann", (0.0, ""), 9)] == ["c"]


async def test_sessions_are_listed_for_their_owner_oldest_first() -> None:
    """The list comes in pages, without expired sessions."""
    async with running_world() as world:
        for name in ("b", "a", "c"):
            await world.open(name)
            world.clock.advance(1)
        await world.open("d", owner="bob")
        first = await world.operations.list_owned("ann", (0.0, ""), 2)
        rest = await world.operations.list_owned("ann", (first[-1].created_at, first[-1].id), 2)
        assert [row.id for row in (*first, *rest)] == ["b", "a", "c"]
        world.clock.advance(97.5)
        assert [row.id for row in await world.operations.list_owned("ann", (0.0, ""), 9)] == ["a", "c"]


async def test_watchers_hear_of_every_kind() -> None:
    """They hear of created, deleted and expired sessions, in order, with times, and only of their owner's."""
    async with running_world() as world:
        async with heard(world) as events:
            await world.open("a")
            await world.open("x", owner="bob")
            world.clock.advance(5)
            await world.operations.delete("ann", "a")
            await world.open("b")
            world.clock.advance(100)
            await world.operations.expire()
        kinds = [EventKind.CREATED, EventKind.DELETED, EventKind.CREATED, EventKind.EXPIRED]
        times = [1_000_000, 1_000_005, 1_000_005, 1_000_105]
        expected = [SessionEvent(*one) for one in zip(kinds, "aabb", ["ann"] * 4, times, strict=True)]
        assert events == expected


async def test_live_sessions_are_counted() -> None:
    """The counters have created sessions, and ended ones by reason."""
    async with running_world() as world:
        for name in "abc":
            await world.open(name)
        assert world.value("sessions_created_total") == 3
        await world.operations.delete("ann", "a")
        world.clock.advance(100)
        await world.operations.expire()
        assert world.value("sessions_ended_total", reason="expired") == 2
        assert world.value("sessions_ended_total", reason="deleted") == 1
