"""An exported state becomes a session on any server with its key, for its owner, within its time."""

import asyncio

import pytest
from tests.fakes import Fault, ToyModel, same_snapshot
from tests.server.sessions.session_calls import NOW, assert_refused, fed, feed, gated_creations
from tests.worlds import KEY, Plan, running_world

from carousel.errors import InvalidRequest, SessionExists, StoreUnavailable
from carousel.sessions.operations import Point


async def test_an_exported_state_is_imported_anywhere_the_key_is() -> None:
    """On another server with another store, the session goes on bit for bit."""
    async with running_world() as here, running_world() as there:
        await here.open()
        await feed(here, 1, 2, 3)
        blob, position = await here.operations.export("ann", "s", NOW, 60)
        row = await there.operations.import_state("ann", blob, "moved")
        assert (row.id, row.position, position) == ("moved", 3, 3)
        await feed(there, 4, session_id="moved")
        assert same_snapshot(await there.snapshot("moved"), fed(there, 1, 2, 3, 4))


@pytest.mark.parametrize(("point", "position"), [(NOW, 3), (Point(0), 0), (Point(mark="c"), 2)])
async def test_any_point_can_be_exported(point: Point, position: int) -> None:
    """A point is now, a retained boundary or a checkpoint."""
    async with running_world() as world:
        await world.open()
        await feed(world, 1, 2)
        await world.operations.mark("ann", "s", "c")
        await feed(world, 3)
        blob, told = await world.operations.export("ann", "s", point, 60)
        assert told == position
        await world.operations.import_state("ann", blob, "t")
        assert same_snapshot(await world.snapshot("t"), fed(world, *(1, 2, 3)[:position]))


@pytest.mark.parametrize("ttl_seconds", [0.0, -1.0, float("nan"), float("inf"), 367 * 86_400.0])
async def test_a_ttl_has_bounds(ttl_seconds: float) -> None:
    """A value that is no time to live is refused by name."""
    async with running_world() as world:
        await world.open()
        with pytest.raises(InvalidRequest, match="^ttl: "):
            await world.operations.export("ann", "s", NOW, ttl_seconds)


async def test_a_state_is_refused_with_its_reason() -> None:
    """The reason says whether the state is another owner's, expired, of an unknown key or of another model."""
    async with running_world() as world:
        await world.open()
        blob, _ = await world.operations.export("ann", "s", NOW, 60)
        await assert_refused(world, blob, "foreign", owner="bob")
        async with running_world(Plan(seal_keys=(bytes(32),))) as other:
            await assert_refused(other, blob, "unknown_key")
        async with running_world(Plan(seal_keys=(bytes(32), KEY))) as other:
            await other.operations.import_state("ann", blob, "t")
        async with running_world(Plan(seal_keys=())) as other:
            await assert_refused(other, blob, "no_key")
        async with running_world(Plan(model=ToyModel(hidden_size=5))) as other:
            await assert_refused(other, blob, "other_model")
        world.clock.advance(60)
        await assert_refused(world, blob, "expired")


async def test_a_state_that_is_good_once_is_used_only_by_an_import_that_succeeds() -> None:
    """Under that policy, a failed import, such as one to an id that is taken, leaves the state good."""
    async with running_world(Plan(replays_seals=False)) as world:
        await world.open()
        blob, _ = await world.operations.export("ann", "s", NOW, 60)
        for _ in range(2):
            with pytest.raises(SessionExists):
                await world.operations.import_state("ann", blob, "s")
        await world.operations.import_state("ann", blob, "t")
        await assert_refused(world, blob, "replayed")


async def test_a_state_stays_used_when_an_import_is_in_doubt() -> None:
    """The import is cancelled during the write, or its answer is lost: where a state is good once, it is used."""
    async with gated_creations() as (world, store, writing, may_write):
        blob, _ = await world.operations.export("ann", "s", NOW, 60)
        lost, _ = await world.operations.export("ann", "s", NOW, 60)
        store.faults[Fault.AFTER_WRITE] = 1
        with pytest.raises(StoreUnavailable):
            await world.operations.import_state("ann", lost, "")
        await assert_refused(world, lost, "replayed")
        may_write.clear()
        writing.clear()
        importing = asyncio.ensure_future(world.operations.import_state("ann", blob, ""))
        await writing.wait()
        importing.cancel()
        may_write.set()
        with pytest.raises(asyncio.CancelledError):
            await importing
        await assert_refused(world, blob, "replayed")
