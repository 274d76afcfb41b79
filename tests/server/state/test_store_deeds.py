"""Every store records what an owner's request did to sessions together with its effects, so that a retry does
nothing."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry
from tests.fakes import FakeClock, SlowOracle
from tests.server.state.conftest import advance, make_birth, open_session, take
from tests.worlds import Plan, make_manifest, make_service

from carousel.engine.engine import Engine
from carousel.errors import SessionDeleted, SessionEnded, SessionExists
from carousel.metrics import Metrics
from carousel.state import memory, sqlite_changes
from carousel.state.redis_store import RedisStore
from carousel.state.store import DEED_SECONDS, MAX_DEEDS, Birth, Deed, Ending, EndReason, Repeated, Row, SessionStore


def deed_of(*births: Birth, request_id: str = "r", contents: str = "print") -> Deed:
    return Deed(births[0].owner, request_id, contents, tuple((birth.id, birth.incarnation) for birth in births))


async def create(store: SessionStore, *births: Birth, request_id: str = "r") -> list[Row]:
    return await store.create(births, deed_of(*births, request_id=request_id))


async def test_a_creation_is_recorded_with_its_deed(store: SessionStore) -> None:
    """Only its owner and id recall it, and its session exists."""
    births = [make_birth(name) for name in "ab"]
    await create(store, *births)
    assert await store.recall("ann", "r") == deed_of(*births)
    assert await store.recall("bob", "r") is None
    assert await store.recall("ann", "q") is None
    assert await store.num_live() == 2


async def test_a_request_is_carried_out_once(store: SessionStore) -> None:
    """The second call with the id gets the first deed and creates nothing, whatever it asks for."""
    first = make_birth("a")
    await create(store, first)
    await advance(store, "a")
    for second in (make_birth("a"), make_birth("b")):
        with pytest.raises(Repeated) as repeated:
            await create(store, second)
        assert repeated.value.deed == deed_of(first)
    assert await store.num_live() == 1
    assert (await take(store, "a")).row.revision == 1


async def test_of_equal_requests_at_once_one_is_carried_out(store: SessionStore) -> None:
    """This holds for any number at once; the others get the same deed."""
    births = [make_birth("a") for _ in range(8)]
    outcomes = await asyncio.gather(*(create(store, birth) for birth in births), return_exceptions=True)
    deeds = [outcome.deed for outcome in outcomes if isinstance(outcome, Repeated)]
    rows = [outcome for outcome in outcomes if isinstance(outcome, list)]
    assert len(rows) + len(deeds) == 8
    assert len(rows) >= 1
    incarnations = {row.incarnation for made in rows for row in made} | {deed.targets[0][1] for deed in deeds}
    assert len(incarnations) == 1
    assert await store.num_live() == 1


async def test_a_refused_creation_is_no_deed(store: SessionStore) -> None:
    """Its id is free for a request that can be carried out."""
    await open_session(store, "taken")
    with pytest.raises(SessionExists):
        await create(store, make_birth("taken"))
    assert await store.recall("ann", "r") is None
    await create(store, make_birth("free"))
    assert await store.num_live() == 2


async def test_an_end_is_recorded_with_its_deed(store: SessionStore, told: list[Ending]) -> None:
    """The retry ends nothing, even when another session has the id by then."""
    row = await open_session(store)
    deed = Deed("ann", "r", "print", ((row.id, row.incarnation),))
    assert await store.end(row, EndReason.DELETED, deed)
    assert await store.recall("ann", "r") == deed
    new = await open_session(store)
    with pytest.raises(Repeated) as repeated:
        await store.end(new, EndReason.DELETED, Deed("ann", "r", "print", ((new.id, new.incarnation),)))
    assert repeated.value.deed == deed
    assert await store.read("ann", "s") == new
    assert len(told) == 1


async def test_what_a_deed_made_may_end(store: SessionStore) -> None:
    """The deed stays, and the ending tells which incarnation it was."""
    birth = make_birth("a")
    (row,) = await create(store, birth)
    await store.end(row, EndReason.DELETED)
    assert await store.recall("ann", "r") == deed_of(birth)
    ending = await store.read("ann", "a")
    assert isinstance(ending, Ending)
    assert ending.incarnation == birth.incarnation


@pytest.mark.parametrize("is_alive", [True, False])
async def test_a_late_repeat_does_not_make_what_came_and_went(store: SessionStore, *, is_alive: bool) -> None:
    """The request's session has ended, and a later session under its id has ended too, or not."""
    birth = make_birth("a")
    (row,) = await create(store, birth)
    await store.end(row, EndReason.DELETED)
    (namesake,) = await create(store, make_birth("a"), request_id="q")
    if not is_alive:
        await store.end(namesake, EndReason.DELETED)
    with pytest.raises(Repeated) as repeated:
        await create(store, make_birth("a"))
    assert repeated.value.deed == deed_of(birth)
    assert await store.recall("ann", "r") == deed_of(birth)
    found = await store.read("ann", "a")
    assert isinstance(found, Row if is_alive else Ending)
    assert found.incarnation == namesake.incarnation


async def test_a_repeat_is_told_how_what_it_made_has_ended(store: SessionStore, clock: FakeClock) -> None:
    """This holds as long as that is known. A later session under the id belongs to another request: the retry gets
    neither it nor its ending, and changes nothing."""
    plan = Plan()
    metrics = Metrics(CollectorRegistry())
    engine = Engine(plan.model, 0, plan.bounds, metrics)
    operations = make_service(plan, make_manifest(plan), engine, store, clock, metrics).operations
    start = SlowOracle(plan.model).start()

    async def make(request_id: str) -> Row:
        return await operations.create("ann", "a", start, request_id)

    first = await make("r")
    assert await make("r") == first
    await operations.delete("ann", "a")
    with pytest.raises(SessionDeleted):
        await make("r")
    namesake = await make("q")
    for is_alive in (True, False):
        with pytest.raises(SessionEnded) as ended:
            await make("r")
        assert (ended.value.reason, ended.value.details) == ("SESSION_ENDED", {})
        if is_alive:
            assert await make("q") == namesake == await operations.get("ann", "a")
            await operations.delete("ann", "a")
    with pytest.raises(SessionDeleted):
        await make("q")


def test_all_stores_remember_as_many_deeds() -> None:
    """That write them down themselves: Redis forgets by time alone."""
    limits = [vars(module)["MAX_DEEDS"] for module in (memory, sqlite_changes)]
    assert limits == [MAX_DEEDS, MAX_DEEDS]


async def test_a_deed_is_forgotten_after_its_time(store: SessionStore, clock: FakeClock) -> None:
    """Ten minutes later the id is free; not before."""
    if isinstance(store, RedisStore):
        return  # there a key's time to live sees to it, which its own tests look at
    await create(store, make_birth("a"))
    clock.advance(DEED_SECONDS - 1)
    assert await store.recall("ann", "r") is not None
    clock.advance(1)
    assert await store.recall("ann", "r") is None
    await create(store, make_birth("b"))
    assert await store.recall("ann", "r") is not None


async def test_what_was_made_and_ended_is_not_made_again(store: SessionStore) -> None:
    """This holds even when its id was used again and that session ended too: a late retry of the first finds its
    deed."""
    for request_id in "rq":
        await create(store, make_birth("a"), request_id=request_id)
        row = await store.read("ann", "a")
        assert isinstance(row, Row)
        assert await store.end(row, EndReason.DELETED)
    for request_id in "rq":
        assert await store.recall("ann", request_id) is not None
        with pytest.raises(Repeated):
            await create(store, make_birth("a"), request_id=request_id)
    assert not isinstance(await store.read("ann", "a"), Row)
