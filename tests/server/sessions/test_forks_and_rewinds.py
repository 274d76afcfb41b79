"""A session forks and rewinds at any point that it retains: now, a turn boundary or a checkpoint."""

import asyncio
import contextlib

import pytest
from tests.fakes import Fault, FaultyStore, ToyModel, same_snapshot
from tests.server.sessions.session_calls import NOW, faulty_plan, fed, feed, store_of
from tests.worlds import LIFETIMES, ROOMY, Plan, running_world

from carousel.errors import (
    InvalidRequest,
    Overloaded,
    PositionMismatch,
    PositionUnknown,
    SessionDeleted,
    SessionExists,
    SessionMoved,
    StoreUnavailable,
)
from carousel.sessions.operations import Point
from carousel.sessions.requests import Caller, GenerationRequest
from carousel.state.memory import MemoryStore
from carousel.state.store import Capacity
from carousel.turns import SamplingOptions


async def test_forks_stand_where_the_session_stood() -> None:
    """This holds now, at a retained position and at a checkpoint, bit for bit; afterwards each goes on by itself."""
    async with running_world() as world:
        await world.open()
        await feed(world, 1, 2)
        await world.operations.mark("ann", "s", "c")
        await feed(world, 3)
        for name, point, ids in (("x", NOW, (1, 2, 3)), ("y", Point(0), ()), ("z", Point(mark="c"), (1, 2))):
            (row,) = await world.operations.fork("ann", "s", point, (name,), 0)
            assert (row.id, row.owner, row.position) == (name, "ann", len(ids))
            assert same_snapshot(await world.snapshot(name), fed(world, *ids))
            history = await world.operations.history("ann", name)
            assert (history.positions, history.marks) == ((len(ids),), {})
            assert history.origin is not None
            assert (history.origin.session_id, history.origin.position) == ("s", len(ids))
        await feed(world, 9, session_id="z")
        assert same_snapshot(await world.snapshot("z"), fed(world, 1, 2, 9))
        assert same_snapshot(await world.snapshot(), fed(world, 1, 2, 3))
        await world.operations.delete("ann", "s")
        assert (await world.operations.get("ann", "x")).position == 3


@pytest.mark.parametrize(
    ("ids", "count", "num_made"), [((), 0, 1), ((), 1, 1), ((), 100, 100), (("a", "b"), 0, 2), (("a", "b"), 2, 2)]
)
async def test_the_number_of_forks(ids: tuple[str, ...], count: int, num_made: int) -> None:
    """As many are made as the count says or as ids were given, or one; all are different."""
    plan = store_of(Capacity(200, 2**20, evicts=False))
    async with running_world(plan) as world:
        await world.open()
        rows = await world.operations.fork("ann", "s", NOW, ids, count)
        assert len({row.id for row in rows}) == num_made
        assert await world.store.num_live() == num_made + 1


@pytest.mark.parametrize(
    ("ids", "count", "field"),
    [((), -1, "count"), ((), 101, "count"), (("a",), 2, "new_session_ids"), (("a", "b"), 1, "new_session_ids")],
)
async def test_a_wrong_number_of_forks_is_refused(ids: tuple[str, ...], count: int, field: str) -> None:
    """The error names the field, and nothing is made."""
    async with running_world() as world:
        await world.open()
        with pytest.raises(InvalidRequest) as refused:
            await world.operations.fork("ann", "s", NOW, ids, count)
        assert refused.value.field == field
        assert await world.store.num_live() == 1


@pytest.mark.parametrize("ids", [("a", "b", "s"), ("a", "b", "a")])
async def test_forks_are_made_all_or_none(ids: tuple[str, ...]) -> None:
    """When one cannot be made, those made before it are removed."""
    async with running_world() as world:
        await world.open()
        with pytest.raises(SessionExists):
            await world.operations.fork("ann", "s", NOW, ids, 0)
        assert [row.id for row in await world.operations.list_owned("ann", (0.0, ""), 9)] == ["s"]
        await world.operations.fork("ann", "s", NOW, ("a", "b"), 0)


async def test_a_fork_beyond_the_limit_makes_none() -> None:
    """RESOURCE_EXHAUSTED leaves the existing sessions."""
    async with running_world(store_of(Capacity(3, 2**20, evicts=False))) as world:
        await world.open()
        with pytest.raises(Overloaded):
            await world.operations.fork("ann", "s", NOW, (), 3)
        assert await world.store.num_live() == 1
        assert len(await world.operations.fork("ann", "s", NOW, (), 2)) == 2


async def test_a_rewind_goes_back_bit_for_bit() -> None:
    """Any retained boundary can be the target; what came after is forgotten, and new turns go on from there."""
    async with running_world() as world:
        await world.open()
        for token in (1, 2, 3, 4):
            await feed(world, token)
        assert (await world.operations.history("ann", "s")).positions == (0, 1, 2, 3, 4)
        assert (await world.operations.rewind("ann", "s", Point(2), 4)).position == 2
        assert same_snapshot(await world.snapshot(), fed(world, 1, 2))
        assert (await world.operations.history("ann", "s")).positions == (0, 1, 2)
        with pytest.raises(PositionUnknown):
            await world.operations.rewind("ann", "s", Point(3), None)
        await feed(world, 7)
        assert same_snapshot(await world.snapshot(), fed(world, 1, 2, 7))


async def test_generating_again_from_a_point_computes_nothing_twice() -> None:
    """After a rewind to before a generation, another seed continues from the stored hidden vector, and no token is fed
    again."""
    model = ToyModel()
    async with running_world(Plan(model=model)) as world:
        await world.open()
        await feed(world, 1, 2)
        for seed in (1, 2):
            num_steps = len(model.steps)
            request = GenerationRequest((), SamplingOptions(seed=seed), 1)
            async for _ in world.sessions.generate(Caller("ann", "s"), request):
                pass
            assert len(model.steps) == num_steps + 1  # the generated token alone
            await world.operations.rewind("ann", "s", Point(2), 3)
        assert same_snapshot(await world.snapshot(), fed(world, 1, 2))


@pytest.mark.parametrize("expected", [0, 2, 3])
async def test_a_rewind_that_expects_another_position_changes_nothing(expected: int) -> None:
    """A rewind that lost a race is told where the session stands."""
    async with running_world() as world:
        await world.open()
        await feed(world, 1)
        held = await world.hold()
        with pytest.raises(PositionMismatch) as refused:
            await world.operations.rewind("ann", "s", Point(0), expected)
        assert refused.value.details == {"position": "1"}
        assert await world.hold() == held


async def test_checkpoints_are_named_bounded_and_move() -> None:
    """A session has sixteen names; a seventeenth is refused, and a known one moves."""
    async with running_world() as world:
        await world.open()
        for number in range(16):
            await world.operations.mark("ann", "s", f"c{number}")
        await feed(world, 1)
        with pytest.raises(InvalidRequest, match="^checkpoint: "):
            await world.operations.mark("ann", "s", "c16")
        assert (await world.operations.mark("ann", "s", "c3")).position == 1
        marks = (await world.operations.history("ann", "s")).marks
        assert marks == {f"c{number}": int(number == 3) for number in range(16)}


@pytest.mark.parametrize("change", ["rewind", "mark"])
@pytest.mark.parametrize("num_cancels", [1, 2, 3])
async def test_a_change_that_is_cancelled_ends_its_write_first(change: str, num_cancels: int) -> None:
    """As with a turn, no caller gets the session while a write is in doubt."""
    may_commit = asyncio.Event()

    async def pause(name: str) -> None:
        if name == "commit" and change in doing:
            await may_commit.wait()

    doing: list[str] = []
    async with running_world(
        Plan(store=lambda clock: FaultyStore(MemoryStore(ROOMY, LIFETIMES, clock=clock), pause))
    ) as world:
        store = world.store
        assert isinstance(store, FaultyStore)
        await world.open()
        await feed(world, 1)
        doing.append(change)
        store.log.clear()
        call = (
            world.operations.rewind("ann", "s", Point(0), None)
            if change == "rewind"
            else world.operations.mark("ann", "s", "c")
        )
        task = asyncio.ensure_future(call)
        while store.log != ["acquire", "commit"]:
            await asyncio.sleep(0)
        for _ in range(num_cancels):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        may_commit.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert store.log == ["acquire", "commit", "committed", "release"]


@pytest.mark.parametrize("fault", [Fault.BEFORE_WRITE, Fault.AFTER_WRITE, Fault.ACQUIRE])
async def test_a_rewind_that_the_store_fails_is_done_or_not(fault: Fault) -> None:
    """The rewind is UNAVAILABLE; the session is whole before or after it, and expected_position tells which."""
    async with running_world(faulty_plan()) as world:
        assert isinstance(world.store, FaultyStore)
        await world.open()
        await feed(world, 1, 2)
        world.store.faults[fault] = 1
        with pytest.raises(StoreUnavailable):
            await world.operations.rewind("ann", "s", Point(0), 2)
        is_done = fault is Fault.AFTER_WRITE
        assert same_snapshot(await world.snapshot(), fed(world, *(() if is_done else (1, 2))))
        with pytest.raises(PositionMismatch) if is_done else contextlib.nullcontext():
            await world.operations.rewind("ann", "s", Point(0), 2)


async def test_a_session_changed_by_somebody_else_is_told_apart_from_one_that_ended() -> None:
    """Another server's commit makes ours SessionMoved; an ended session gets its ending."""
    async with running_world() as world:
        await world.open()
        held = await world.hold()
        await feed(world, 1)
        with pytest.raises(SessionMoved):
            await world.access.commit(held, world.ledger.mark(held, "c"))
        await world.operations.delete("ann", "s")
        with pytest.raises(SessionDeleted):
            await world.access.commit(held, world.ledger.mark(held, "c"))
