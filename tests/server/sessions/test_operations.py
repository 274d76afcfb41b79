"""Sessions are made, looked at, forked, rewound, sealed and ended for their owner alone, and watchers are told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest
from tests.fakes import Fault, FaultyStore, ToyModel, same_snapshot
from tests.worlds import KEY, LIFETIMES, ROOMY, Plan, World, running_world

from carousel.errors import (
    CarouselError,
    InvalidRequest,
    Overloaded,
    PositionMismatch,
    PositionUnknown,
    SessionDeleted,
    SessionEvicted,
    SessionExists,
    SessionExpired,
    SessionMoved,
    SessionNotFound,
    StateRefused,
    StoreUnavailable,
)
from carousel.sessions import deeds
from carousel.sessions.events import EventKind, SessionEvent
from carousel.sessions.operations import Point
from carousel.sessions.requests import Caller, GenerationRequest, PredictionRequest
from carousel.state.memory import MemoryStore
from carousel.state.store import Birth, Capacity, Deed, EndReason, Row
from carousel.turns import SamplingOptions, Snapshot

NOW = Point()
BAD_NAMES = ["", "a b", "x" * 129, "a/b", "é", "a\n", "{a}", "a\0"]


def store_of(capacity: Capacity) -> Plan:
    return Plan(store=lambda clock: MemoryStore(capacity, LIFETIMES, clock=clock))


def faulty_plan() -> Plan:
    return Plan(store=lambda clock: FaultyStore(MemoryStore(ROOMY, LIFETIMES, clock=clock)))


async def feed(world: World, *ids: int, session_id: str = "s") -> None:
    await world.sessions.predict(Caller("ann", session_id), PredictionRequest(ids))


def fed(world: World, *ids: int) -> Snapshot:
    return world.oracle.feed(world.oracle.start(), ids)


@contextlib.asynccontextmanager
async def heard(world: World, owner: str = "ann") -> AsyncIterator[list[SessionEvent]]:
    """What a watcher hears inside the block, there when it ends."""
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


async def refusal(world: World, owner: str, session_id: str) -> CarouselError:
    """That of every call that names the session: they are all alike."""
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


async def test_made_ids_are_unguessable() -> None:
    """Ids that are made have 128 bits or more and are all different."""
    async with running_world() as world:
        ids = [(await world.open("")).id for _ in range(5)]
        assert len(set(ids)) == 5
        assert all(len(one) * 6 >= 128 for one in ids)


@pytest.mark.parametrize("session_id", ["a", "x" * 128, "A-z_0.9~"])
async def test_a_caller_may_choose_an_id(session_id: str) -> None:
    """A well-formed id is taken as it is, once for each owner: whether others have it cannot be told."""
    async with running_world() as world:
        assert (await world.open(session_id)).id == session_id
        with pytest.raises(SessionExists):
            await world.open(session_id)
        assert (await world.open(session_id, "bob")).owner == "bob"
        await world.operations.delete("bob", session_id)
        assert (await world.operations.get("ann", session_id)).owner == "ann"


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_a_malformed_name_is_refused(name: str) -> None:
    """For a session (where empty asks for one), for a fork and for a checkpoint; nothing is made."""
    async with running_world() as world:
        await world.open()
        with pytest.raises(InvalidRequest, match="^checkpoint: "):
            await world.operations.mark("ann", "s", name)
        if name:
            with pytest.raises(InvalidRequest, match="^session_id: "):
                await world.open(name)
            with pytest.raises(InvalidRequest, match="^new_session_ids: "):
                await world.operations.fork("ann", "s", NOW, ("fine", name), 0)
        assert await world.store.num_live() == 1
        assert (await world.operations.history("ann", "s")).marks == {}


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_what_can_be_no_id_reaches_no_store(name: str) -> None:
    """It is not found, although the store would fail if it were asked."""
    async with running_world(faulty_plan()) as world:
        assert isinstance(world.store, FaultyStore)
        world.store.faults[Fault.READ] = world.store.faults[Fault.ACQUIRE] = 99
        assert isinstance(await refusal(world, "ann", name), SessionNotFound)


async def test_a_foreign_session_is_as_unknown() -> None:
    """Living or ended, to a stranger it is what an id is that never was."""
    async with running_world() as world:
        unknown = await refusal(world, "bob", "t")
        await world.open()
        living = await refusal(world, "bob", "s")
        await world.operations.delete("ann", "s")
        ended = await refusal(world, "bob", "s")
        assert type(unknown) is type(living) is type(ended) is SessionNotFound
        assert str(unknown)[:-1] + "s" == str(living) == str(ended)
        assert unknown.details == living.details == ended.details


# Endings


async def test_a_deleted_session_is_known_as_deleted() -> None:
    """To its owner, with the time; its parts are gone and the name is free for a new one."""
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
    """Unused for too long, or too old however much it was used; whether the sweep or a call finds it first."""
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
    """The least recently used makes room, is told apart from an expired one, and is counted and announced."""
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
    """Without eviction the one too many is Overloaded; what has expired makes room by itself."""
    async with running_world(store_of(Capacity(2, 2**20, evicts=False))) as world:
        await world.open("a")
        await world.open("b")
        with pytest.raises(Overloaded):
            await world.open("c")
        world.clock.advance(100)
        await world.open("c")
        assert [row.id for row in await world.operations.list_owned("ann", (0.0, ""), 9)] == ["c"]


async def test_sessions_are_listed_for_their_owner_oldest_first() -> None:
    """In pages; expired ones are not there."""
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
    """Created, deleted, expired, in order, with times, and of nobody else's."""
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
    """Made, and gone by each way."""
    async with running_world() as world:
        for name in "abc":
            await world.open(name)
        assert world.value("sessions_created_total") == 3
        await world.operations.delete("ann", "a")
        world.clock.advance(100)
        await world.operations.expire()
        assert world.value("sessions_ended_total", reason="expired") == 2
        assert world.value("sessions_ended_total", reason="deleted") == 1


# Fork and rewind


async def test_forks_stand_where_the_session_stood() -> None:
    """At now, at a retained position or at a checkpoint; bit for bit, and from then on each for itself."""
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
        await feed(world, 9, session_id="z")
        assert same_snapshot(await world.snapshot("z"), fed(world, 1, 2, 9))
        assert same_snapshot(await world.snapshot(), fed(world, 1, 2, 3))
        await world.operations.delete("ann", "s")
        assert (await world.operations.get("ann", "x")).position == 3


@pytest.mark.parametrize(
    ("ids", "count", "num_made"), [((), 0, 1), ((), 1, 1), ((), 100, 100), (("a", "b"), 0, 2), (("a", "b"), 2, 2)]
)
async def test_the_number_of_forks(ids: tuple[str, ...], count: int, num_made: int) -> None:
    """As many as asked for, or as ids were given, or one; all different."""
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
    """By name, and nothing is made."""
    async with running_world() as world:
        await world.open()
        with pytest.raises(InvalidRequest) as refused:
            await world.operations.fork("ann", "s", NOW, ids, count)
        assert refused.value.field == field
        assert await world.store.num_live() == 1


@pytest.mark.parametrize("ids", [("a", "b", "s"), ("a", "b", "a")])
async def test_forks_are_made_all_or_none(ids: tuple[str, ...]) -> None:
    """When one cannot be made, those made before it are gone again."""
    async with running_world() as world:
        await world.open()
        with pytest.raises(SessionExists):
            await world.operations.fork("ann", "s", NOW, ids, 0)
        assert [row.id for row in await world.operations.list_owned("ann", (0.0, ""), 9)] == ["s"]
        await world.operations.fork("ann", "s", NOW, ("a", "b"), 0)


async def test_a_fork_beyond_the_limit_makes_none() -> None:
    """RESOURCE_EXHAUSTED leaves the sessions that were there."""
    async with running_world(store_of(Capacity(3, 2**20, evicts=False))) as world:
        await world.open()
        with pytest.raises(Overloaded):
            await world.operations.fork("ann", "s", NOW, (), 3)
        assert await world.store.num_live() == 1
        assert len(await world.operations.fork("ann", "s", NOW, (), 2)) == 2


async def test_a_rewind_goes_back_bit_for_bit() -> None:
    """To any retained boundary; what came after is forgotten, and the future is open again."""
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
    """After a rewind to before a generation, another seed continues from the stored hidden vector: no token is fed
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
    """So a repeat of a rewind, or one that lost a race, is told where the session stands."""
    async with running_world() as world:
        await world.open()
        await feed(world, 1)
        held = await world.hold()
        with pytest.raises(PositionMismatch) as refused:
            await world.operations.rewind("ann", "s", Point(0), expected)
        assert refused.value.details == {"position": "1"}
        assert await world.hold() == held


async def test_checkpoints_are_named_bounded_and_move() -> None:
    """Sixteen names; a seventeenth is refused, one of the sixteen moves."""
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
    """As a turn does: nobody gets the session while a write is in doubt."""
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
    """UNAVAILABLE; the session stands at one end or the other, whole, and expected_position tells which."""
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
    """Another server's commit makes ours SessionMoved; an ended session is named with its ending."""
    async with running_world() as world:
        await world.open()
        held = await world.hold()
        await feed(world, 1)
        with pytest.raises(SessionMoved):
            await world.access.commit(held, world.ledger.mark(held, "c"))
        await world.operations.delete("ann", "s")
        with pytest.raises(SessionDeleted):
            await world.access.commit(held, world.ledger.mark(held, "c"))


# Export and import


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
    """Now, a retained boundary or a checkpoint."""
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
    """What is no time to live is refused by name."""
    async with running_world() as world:
        await world.open()
        with pytest.raises(InvalidRequest, match="^ttl: "):
            await world.operations.export("ann", "s", NOW, ttl_seconds)


async def test_a_state_is_refused_with_its_reason() -> None:
    """Another owner's, expired, of a key that is not here, of another model."""
    async with running_world() as world:
        await world.open()
        blob, _ = await world.operations.export("ann", "s", NOW, 60)
        await _refused(world, blob, "foreign", owner="bob")
        async with running_world(Plan(seal_keys=(bytes(32),))) as other:
            await _refused(other, blob, "unknown_key")
        async with running_world(Plan(seal_keys=(bytes(32), KEY))) as other:
            await other.operations.import_state("ann", blob, "t")
        async with running_world(Plan(seal_keys=())) as other:
            await _refused(other, blob, "no_key")
        async with running_world(Plan(model=ToyModel(hidden_size=5))) as other:
            await _refused(other, blob, "other_model")
        world.clock.advance(60)
        await _refused(world, blob, "expired")


async def _refused(world: World, blob: bytes, why: str, owner: str = "ann") -> None:
    with pytest.raises(StateRefused) as refused:
        await world.operations.import_state(owner, blob, "t")
    assert refused.value.details == {"why": why}


async def test_a_state_that_is_good_once_is_used_only_by_an_import_that_succeeds() -> None:
    """Under that policy a failed import, as on an id that is taken, leaves it good."""
    async with running_world(Plan(replays_seals=False)) as world:
        await world.open()
        blob, _ = await world.operations.export("ann", "s", NOW, 60)
        for _ in range(2):
            with pytest.raises(SessionExists):
                await world.operations.import_state("ann", blob, "s")
        await world.operations.import_state("ann", blob, "t")
        await _refused(world, blob, "replayed")


# Repeats


async def test_a_repeated_creation_gets_the_session_as_it_stands() -> None:
    """With a chosen id or a made one; after turns it has moved on; when it has ended, the repeat is told how."""
    async with running_world() as world:
        for session_id, request_id in (("s", "r1"), ("", "r2")):
            start = world.engine.start_snapshot
            row = await world.operations.create("ann", session_id, start, request_id)
            assert await world.operations.create("ann", session_id, start, request_id) == row
            await feed(world, 1, 2, session_id=row.id)
            again = await world.operations.create("ann", session_id, start, request_id)
            assert (again.id, again.position) == (row.id, 2)
            await world.operations.delete("ann", row.id)
            with pytest.raises(SessionDeleted):
                await world.operations.create("ann", session_id, start, request_id)
        assert world.value("sessions_created_total") == 2


@pytest.mark.parametrize("other_id", ["this", "another"])
async def test_an_end_that_comes_meanwhile(other_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two attempts of one request may run at once: the later one looks for the record before the earlier one writes it,
    and for the session after. That is a success; an end by another request is told."""
    async with running_world() as world:
        await world.open("s")
        recall = MemoryStore.recall

        async def recall_early(store: MemoryStore, owner: str, request_id: str) -> Deed | None:
            found = await recall(store, owner, request_id)
            monkeypatch.setattr(MemoryStore, "recall", recall)
            await world.operations.delete(owner, "s", other_id)
            return found

        monkeypatch.setattr(MemoryStore, "recall", recall_early)
        with contextlib.nullcontext() if other_id == "this" else pytest.raises(SessionDeleted):
            await world.operations.delete("ann", "s", "this")


async def test_an_end_that_comes_after_the_look_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is another request's, also where the store records what is asked before it is done, as Redis's does."""
    async with running_world() as world:
        await world.open("s")
        end = MemoryStore.end

        async def record_and_end_too_late(store: MemoryStore, row: Row, reason: EndReason, deed: Deed | None) -> bool:
            monkeypatch.setattr(MemoryStore, "end", end)
            store._record(deed, world.clock())
            await world.operations.delete("ann", "s", "another")
            return False

        monkeypatch.setattr(MemoryStore, "end", record_and_end_too_late)
        with pytest.raises(SessionDeleted):
            await world.operations.delete("ann", "s", "this")


async def test_an_id_that_was_made_for_a_request_is_its_own() -> None:
    """Whichever server makes it, the same id; another owner's or another request's is another one."""
    async with running_world() as here, running_world() as there:
        made = [
            (await world.operations.create(owner, "", world.engine.start_snapshot, request_id)).id
            for world in (here, there)
            for owner, request_id in (("ann", "r"), ("ann", "q"), ("bob", "r"))
        ]
        assert made[:3] == made[3:]
        assert len(set(made)) == 3
        assert all(len(one) * 6 >= 128 for one in made)


async def test_a_request_id_is_for_one_request() -> None:
    """Used again for something else it is refused by name, and nothing is done; for another owner it is another id."""
    async with running_world() as world:
        await world.open("t")
        start = world.engine.start_snapshot
        await world.operations.create("ann", "s", start, "r")
        blob, _ = await world.operations.export("ann", "s", NOW, 60)
        others = [
            world.operations.create("ann", "x", start, "r"),
            world.operations.create("ann", "", start, "r"),
            world.operations.fork("ann", "s", NOW, ("x",), 0, "r"),
            world.operations.import_state("ann", blob, "x", "r"),
            world.operations.delete("ann", "s", "r"),
        ]
        for other in others:
            with pytest.raises(InvalidRequest, match="^request_id: "):
                await other
        assert [row.id for row in await world.operations.list_owned("ann", (0.0, ""), 9)] == ["s", "t"]
        await world.operations.create("bob", "x", start, "r")


@pytest.mark.parametrize("request_id", ["a b", "x" * 65, "a/b", "a\n"])
async def test_a_malformed_request_id_is_refused(request_id: str) -> None:
    """By every call that takes one, before anything is done."""
    async with running_world() as world:
        await world.open()
        blob, _ = await world.operations.export("ann", "s", NOW, 60)
        calls = [
            world.operations.create("ann", "x", world.engine.start_snapshot, request_id),
            world.operations.fork("ann", "s", NOW, ("x",), 0, request_id),
            world.operations.import_state("ann", blob, "x", request_id),
            world.operations.rewind("ann", "s", NOW, None, request_id),
            world.operations.mark("ann", "s", "c", request_id),
            world.operations.delete("ann", "s", request_id),
        ]
        for call in calls:
            with pytest.raises(InvalidRequest, match="^request_id: "):
                await call
        assert (await world.hold()).row.revision == 0


async def test_a_repeated_deletion_ends_nothing_that_was_made_since() -> None:
    """The first is done; a namesake made later stays; without an id the repeat is told that it is gone."""
    async with running_world() as world:
        await world.open()
        await world.operations.delete("ann", "s", "r")
        await world.operations.delete("ann", "s", "r")
        with pytest.raises(SessionDeleted):
            await world.operations.delete("ann", "s")
        await world.open()
        await world.operations.delete("ann", "s", "r")
        assert (await world.operations.get("ann", "s")).position == 0


async def test_a_repeated_fork_makes_no_more() -> None:
    """It gets the same sessions as they stand now, also when the original has moved or is gone."""
    async with running_world() as world:
        await world.open()
        await feed(world, 1)
        rows = await world.operations.fork("ann", "s", NOW, (), 3, "r")
        await feed(world, 2)
        await feed(world, 3, 4, session_id=rows[1].id)
        again = await world.operations.fork("ann", "s", NOW, (), 3, "r")
        assert [(row.id, row.position) for row in again] == list(zip([row.id for row in rows], (1, 3, 1), strict=True))
        await world.operations.delete("ann", "s")
        assert len(await world.operations.fork("ann", "s", NOW, (), 3, "r")) == 3
        assert await world.store.num_live() == 3


async def test_a_repeated_import_uses_its_state_once() -> None:
    """Where a state is good once, the repeat still gets the session; another request is refused."""
    async with running_world(Plan(replays_seals=False)) as world:
        await world.open()
        blob, _ = await world.operations.export("ann", "s", NOW, 60)
        row = await world.operations.import_state("ann", blob, "", "r")
        assert await world.operations.import_state("ann", blob, "", "r") == row
        with pytest.raises(StateRefused):
            await world.operations.import_state("ann", blob, "", "q")


async def test_an_import_can_be_repeated_until_it_is_done() -> None:
    """Where a state is good once: the repeat of an import that failed, or that still runs, gets the session; another
    request, or the same id for another session, is refused all the while and afterwards."""
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
        blob, _ = await world.operations.export("ann", "s", NOW, 60)
        world.store.faults[Fault.BEFORE_WRITE] = 1
        with pytest.raises(StoreUnavailable):
            await world.operations.import_state("ann", blob, "", "r")
        may_write.clear()
        first, second = (asyncio.ensure_future(world.operations.import_state("ann", blob, "", "r")) for _ in range(2))
        await writing.wait()
        for session_id, request_id in (("t", "r"), ("", "q"), ("", "")):
            with pytest.raises(StateRefused):
                await world.operations.import_state("ann", blob, session_id, request_id)
        may_write.set()
        assert await first == await second == await world.operations.import_state("ann", blob, "", "r")
        await world.operations.delete("ann", (await first).id)
        for request_id in ("q", ""):
            with pytest.raises(StateRefused):
                await world.operations.import_state("ann", blob, "", request_id)
        assert await world.store.num_live() == 1


async def test_a_repeat_that_waited_for_room_is_a_repeat() -> None:
    """Two of one request find the store full, and what is due makes room: both get the session that one made."""

    class FullTwice(FaultyStore):
        num_full = 2

        async def create(self, births: Sequence[Birth], deed: Deed | None = None) -> list[Row]:
            if deed is not None and self.num_full:
                self.num_full -= 1
                raise Overloaded("full", limit="max_sessions", retry_seconds=1.0)
            return await super().create(births, deed)

        async def sweep(self, count: int) -> int:
            await asyncio.sleep(0)
            return 1

    async with running_world(Plan(store=lambda clock: FullTwice(MemoryStore(ROOMY, LIFETIMES, clock=clock)))) as world:
        calls = [world.operations.create("ann", "s", world.engine.start_snapshot, "r") for _ in range(2)]
        one, other = await asyncio.gather(*calls)
        assert one == other


async def test_a_repeated_rewind_or_checkpoint_moves_nothing() -> None:
    """It is answered as the first was, although other turns came since and whatever it expects; its id is taken."""
    async with running_world() as world:
        await world.open()
        await feed(world, 1)
        await feed(world, 2)
        assert (await world.operations.rewind("ann", "s", Point(1), 2, "back")).position == 1
        assert (await world.operations.mark("ann", "s", "c", "mark")).position == 1
        await feed(world, 3)
        assert (await world.operations.rewind("ann", "s", Point(1), 2, "back")).position == 1
        assert (await world.operations.mark("ann", "s", "c", "mark")).position == 1
        assert same_snapshot(await world.snapshot(), fed(world, 1, 3))
        assert (await world.operations.history("ann", "s")).marks == {"c": 1}
        for other in (
            world.operations.rewind("ann", "s", Point(0), 2, "back"),
            world.operations.mark("ann", "s", "d", "mark"),
            world.operations.mark("ann", "s", "c", "back"),
        ):
            with pytest.raises(InvalidRequest, match="^request_id: "):
                await other
        with pytest.raises(InvalidRequest, match="^request_id: "):
            await world.sessions.predict(Caller("ann", "s", request_id="back"), PredictionRequest((1,)))
        await world.sessions.predict(Caller("ann", "s", request_id="turn"), PredictionRequest((1,)))
        with pytest.raises(InvalidRequest, match="^request_id: "):
            await world.operations.mark("ann", "s", "c", "turn")


@pytest.mark.parametrize("request_id", ["", "r"])
@pytest.mark.parametrize("num_steps", range(12))
async def test_a_cancelled_fork_makes_all_or_none(request_id: str, num_steps: int) -> None:
    """Without an id, nobody could find the copies: none stays. With one all stay, or none; the repeat gets three."""

    async def pause(name: str) -> None:
        for _ in range(2):
            await asyncio.sleep(0)

    plan = Plan(store=lambda clock: FaultyStore(MemoryStore(ROOMY, LIFETIMES, clock=clock), pause))
    async with running_world(plan) as world:
        await world.open()
        forking = asyncio.ensure_future(world.operations.fork("ann", "s", NOW, (), 3, request_id))
        for _ in range(num_steps):
            await asyncio.sleep(0)
        is_done = forking.done()
        forking.cancel()
        with contextlib.nullcontext() if is_done else pytest.raises(asyncio.CancelledError):
            await forking
        num_copies = await world.store.num_live() - 1
        assert num_copies in ((3,) if is_done else (0, 3) if request_id else (0,))
        await world.operations.fork("ann", "s", NOW, (), 3, request_id)
        assert await world.store.num_live() - 1 == (3 if request_id else num_copies + 3)


async def test_a_creation_whose_answer_was_lost_is_not_made_twice() -> None:
    """The store made it and its answer is lost: UNAVAILABLE, and the repeat finds it."""
    async with running_world(faulty_plan()) as world:
        assert isinstance(world.store, FaultyStore)
        for session_id in ("chosen", ""):
            world.store.faults[Fault.AFTER_WRITE] = 1
            with pytest.raises(StoreUnavailable):
                await world.operations.create("ann", session_id, world.engine.start_snapshot, f"r{session_id}")
            await world.operations.create("ann", session_id, world.engine.start_snapshot, f"r{session_id}")
        assert await world.store.num_live() == 2


async def test_a_state_stays_used_when_an_import_is_in_doubt() -> None:
    """Cancelled during the write, or with the answer lost: where a state is good once, it is not good again."""
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
        blob, _ = await world.operations.export("ann", "s", NOW, 60)
        lost, _ = await world.operations.export("ann", "s", NOW, 60)
        world.store.faults[Fault.AFTER_WRITE] = 1
        with pytest.raises(StoreUnavailable):
            await world.operations.import_state("ann", lost, "")
        await _refused(world, lost, "replayed")
        may_write.clear()
        writing.clear()
        importing = asyncio.ensure_future(world.operations.import_state("ann", blob, ""))
        await writing.wait()
        importing.cancel()
        may_write.set()
        with pytest.raises(asyncio.CancelledError):
            await importing
        await _refused(world, blob, "replayed")


def test_made_ids_are_no_options_of_a_command_line() -> None:
    """One in sixty-four would begin with a dash."""
    derived = [deeds.derive_id("ann", "r", number) for number in range(1000)]
    drawn = [deeds.draw_id() for _ in range(1000)]
    assert not [one for one in (*derived, *drawn) if one.startswith("-")]
    assert len({*derived, *drawn}) == 2000
    assert all(len(one) == 24 for one in (*derived, *drawn))
