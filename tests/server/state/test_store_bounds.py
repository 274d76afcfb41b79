"""A store that is full: which owner is refused, which makes room, and a turn never fails for want of room."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.fakes import FakeClock
from tests.server.state.conftest import advance, make_birth, make_store, open_session, step, take

from carousel.errors import Overloaded
from carousel.quotas import Quota, Quotas
from carousel.shares import OwnerLimits
from carousel.state.store import Capacity, Ending, EndReason, Held, SessionStore
from carousel.state.write_behind import WriteBehind

NONE = OwnerLimits()


@pytest.fixture(params=["memory", "sqlite", "write-behind"])
async def open_store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock, told: list[Ending]
) -> AsyncIterator[Callable[..., object]]:
    """Opens a store of the kind with the capacity."""
    made: list[SessionStore] = []

    async def open_it(num_sessions: int, num_bytes: int, *, evicts: bool, limits: OwnerLimits = NONE) -> SessionStore:
        capacity = Capacity(num_sessions, num_bytes, evicts, limits)
        made.append(make_store(request.param, request, tmp_path, capacity, clock=clock))
        await made[0].start(told.append)
        return made[0]

    yield open_it
    for store in made:
        await store.close()


async def flush(store: SessionStore) -> None:
    if isinstance(store, WriteBehind):
        await store.flush()


async def names(store: SessionStore, owner: str = "ann") -> set[str]:
    return {row.id for row in await store.list_owned(owner, (0.0, ""), 99)}


async def refusal(store: SessionStore, birth_parts: dict[str, bytes] | None = None, owner: str = "ann") -> str:
    with pytest.raises(Overloaded) as refused:
        await store.create([make_birth("more", owner, birth_parts or {})])
    assert refused.value.retry_seconds > 0
    return refused.value.limit


async def test_a_full_store_refuses_by_the_limits_name(open_store) -> None:  # type: ignore[no-untyped-def]
    """The limit of sessions or bytes holds until one has ended; a refused session leaves nothing."""
    store = await open_store(2, 20_000, evicts=False)
    await open_session(store, "a")
    (row,) = await store.create([make_birth("b", parts={"large": bytes(15_000)})])
    assert await refusal(store) == "max_sessions"
    await store.end(row, EndReason.DELETED)
    assert await refusal(store, {"larger": bytes(19_900)}) == "max_session_bytes"
    await store.create([make_birth("c", parts={"large": bytes(15_000)})])
    assert await names(store) == {"a", "c"}


async def test_what_is_due_makes_room_first(open_store, clock: FakeClock, told: list[Ending]) -> None:  # type: ignore[no-untyped-def]
    """This comes before any refusal or eviction."""
    store = await open_store(2, 2**20, evicts=False)
    await open_session(store, "old")
    clock.advance(599)
    await open_session(store, "young")
    clock.advance(1)
    await open_session(store, "new")
    assert [(one.id, one.reason) for one in told] == [("old", EndReason.IDLE)]


async def test_room_is_set_aside_before_a_turn(open_store) -> None:  # type: ignore[no-untyped-def]
    """A turn that needs room that is not there is refused at the take; an admitted one can use all of it, and the room
    comes back."""
    store = await open_store(9, 60_000, evicts=False)
    for name in "abc":
        await open_session(store, name)
    first = await take(store, "a", room=30_000)
    with pytest.raises(Overloaded) as refused:
        await store.acquire("ann", "b", 30_000)
    assert refused.value.limit == "max_session_bytes"
    assert await refusal(store, {"large": bytes(30_000)}) == "max_session_bytes"
    await store.commit(first, step(first, {"large": bytes(30_000)}))
    await store.release(first)
    with pytest.raises(Overloaded):
        await store.acquire("ann", "b", 30_000)
    second = await take(store, "a", room=100)
    await store.commit(second, step(second, {}, ("large",)))
    await store.release(second)
    for _ in range(3):
        third = await take(store, "b", room=30_000)
        await store.release(third)  # unused
    await flush(store)


async def test_a_refused_take_holds_nothing(open_store, clock: FakeClock) -> None:  # type: ignore[no-untyped-def]
    """The session can be taken with less room, and the clock can end it."""
    store = await open_store(9, 60_000, evicts=False)
    await open_session(store)
    with pytest.raises(Overloaded):
        await store.acquire("ann", "s", 60_000)
    held = await take(store, room=1_000)
    await store.release(held)
    clock.advance(601)
    assert await store.sweep(9) == 1


async def test_the_longest_unused_makes_room(open_store, clock: FakeClock, told: list[Ending]) -> None:  # type: ignore[no-untyped-def]
    """Where it may, the store evicts as many as needed, reports each once, and remembers them as evicted."""
    store = await open_store(3, 20_000, evicts=True)
    for name in "abc":
        await open_session(store, name)
        clock.advance(1)
    await advance(store, "a")
    await flush(store)
    clock.advance(1)
    await open_session(store, "d")
    assert [(one.id, one.reason) for one in told] == [("b", EndReason.EVICTED)]
    assert await store.read("ann", "b") == told[0]
    clock.advance(1)
    await store.create([make_birth("e", parts={"large": bytes(19_250)})])
    assert [one.id for one in told] == ["b", "c", "a", "d"]
    assert await names(store) == {"e"}


async def test_a_session_in_use_is_never_evicted(open_store, told: list[Ending]) -> None:  # type: ignore[no-untyped-def]
    """The next one is evicted instead; when all are in use, the new session is refused."""
    store = await open_store(2, 2**20, evicts=True)
    await open_session(store, "a")
    await open_session(store, "b")
    held = [await take(store, "a")]
    await open_session(store, "c")
    assert [one.id for one in told] == ["b"]
    held.append(await take(store, "c"))
    assert await refusal(store) == "max_sessions"
    for one in held:
        await store.release(one)
    await open_session(store, "d")


async def test_who_has_most_makes_room(open_store, clock: FakeClock, told: list[Ending]) -> None:  # type: ignore[no-untyped-def]
    """A newcomer gets its share from the owner with the most, whose least recently used session goes; that owner itself
    loses its own; an owner within its share loses none."""
    store = await open_store(9, 2**20, evicts=True)
    for number in range(7):
        await open_session(store, f"a{number}", "ann")
        clock.advance(1)
    for number in range(2):
        await open_session(store, f"b{number}", "bob")
        clock.advance(1)
    for number in range(3):
        await open_session(store, f"c{number}", "cid")
        clock.advance(1)
    assert [one.id for one in told] == ["a0", "a1", "a2"]
    for number in range(20):
        await open_session(store, f"x{number}", "ann")
        clock.advance(1)
    assert {one.owner for one in told} == {"ann"}
    assert await names(store, "bob") == {"b0", "b1"}
    assert await names(store, "cid") == {"c0", "c1", "c2"}
    await open_session(store, "b2", "bob")
    assert told[-1].owner == "ann"


async def test_bytes_are_shared_as_well(open_store, clock: FakeClock, told: list[Ending]) -> None:  # type: ignore[no-untyped-def]
    """Large sessions of one owner make room for another owner's first."""
    store = await open_store(99, 60_000, evicts=True)
    for number in range(5):
        await store.create([make_birth(f"a{number}", "ann", {"large": bytes(10_000)})])
        clock.advance(1)
    await store.create([make_birth("b", "bob", {"large": bytes(10_000)})])
    assert [one.id for one in told] == ["a0"]


async def test_a_store_that_grew_beyond_its_bytes_is_swept(open_store, clock: FakeClock, told: list[Ending]) -> None:  # type: ignore[no-untyped-def]
    """Where sessions may be evicted, turns are not refused; the sweep ends the least recently used until all fit."""
    store = await open_store(99, 40_000, evicts=True)
    for name in "abc":
        await open_session(store, name)
        clock.advance(1)
    held = await take(store, "c", room=10)
    await store.commit(held, step(held, {"large": bytes(39_250)}))
    await store.release(held)
    await flush(store)
    while await store.sweep(1):
        pass
    assert [(one.id, one.reason) for one in told] == [("a", EndReason.EVICTED), ("b", EndReason.EVICTED)]


@pytest.mark.parametrize("evicts", [True, False])
async def test_an_owner_has_limits_of_his_own(open_store, told: list[Ending], *, evicts: bool) -> None:  # type: ignore[no-untyped-def]
    """At its limit an owner is refused with the limit's name, or loses its own least recently used session; others are
    not affected."""
    store = await open_store(99, 2**20, evicts=evicts, limits=OwnerLimits(max_sessions=2, max_bytes=30_000))
    for owner in ("ann", "bob"):
        for name in "ab":
            await open_session(store, name, owner)
    if evicts:
        await open_session(store, "c")
        assert [(one.owner, one.id) for one in told] == [("ann", "a")]
    else:
        assert await refusal(store) == "max_sessions_per_owner"
        await store.end((await take(store, "a")).row, EndReason.DELETED)
        assert await refusal(store, {"large": bytes(29_900)}) == "max_session_bytes_per_owner"
        with pytest.raises(Overloaded) as refused:
            await store.acquire("ann", "b", 30_000)
        assert refused.value.limit == "max_session_bytes_per_owner"
    assert await names(store, "bob") == {"a", "b"}


async def test_limits_of_ones_own_may_change(open_store, clock: FakeClock, told: list[Ending]) -> None:  # type: ignore[no-untyped-def]
    """Who has more than a new quota allows loses what was unused for longest; who has the most and may does not."""
    quotas = Quotas(OwnerLimits(max_sessions=4))
    quotas.replace([Quota("a", "ann", OwnerLimits(max_sessions=9))])
    store = await open_store(99, 2**20, evicts=True, limits=quotas)
    for number in range(6):
        clock.now += 1
        await open_session(store, f"a{number}", "ann")
    for number in range(4):
        clock.now += 1
        await open_session(store, f"b{number}", "bob")
    while await store.sweep(1):
        pass
    assert (len(await names(store)), len(await names(store, "bob"))) == (6, 4)
    quotas.replace([Quota("a", "ann", OwnerLimits(max_sessions=2))])
    while await store.sweep(1):
        pass
    assert await names(store) == {"a4", "a5"}
    assert len(await names(store, "bob")) == 4


async def test_endings_are_bounded_for_each_owner(open_store) -> None:  # type: ignore[no-untyped-def]
    """The newest thousand of an owner's ended sessions are remembered, however many others end theirs."""
    store = await open_store(99, 2**30, evicts=False)
    await store.end(await open_session(store, "mine", "bob"), EndReason.DELETED)
    for number in range(1_003):
        await store.end(await open_session(store, str(number)), EndReason.DELETED)
    found = [isinstance(await store.read("ann", str(number)), Ending) for number in (0, 2, 3, 1_002)]
    assert found == [False, False, True, True]
    assert isinstance(await store.read("bob", "mine"), Ending)
    assert isinstance(await store.acquire("bob", "mine"), Ending)
    assert not isinstance(await store.acquire("bob", "mine"), Held)


async def test_what_is_due_makes_room_for_a_turn_too(open_store, clock: FakeClock, told: list[Ending]) -> None:  # type: ignore[no-untyped-def]
    """The same holds for several new sessions at once: as many due ones end as needed."""
    store = await open_store(9, 60_000, evicts=False)
    for name in "abc":
        await store.create([make_birth(name, parts={"large": bytes(15_000)})])
    clock.advance(599)
    await open_session(store, "live")
    clock.advance(1)
    held = await take(store, "live", room=40_000)
    await store.commit(held, step(held, {"large": bytes(40_000)}, ("at/0",)))
    await store.release(held)
    assert {one.reason for one in told} == {EndReason.IDLE}
    await flush(store)
    clock.advance(599)
    await store.create([make_birth(name) for name in "defghijk"])
    assert await names(store) == {"live", *"defghijk"}


async def test_who_has_just_his_share_makes_room_of_his_own(open_store, clock: FakeClock, told: list[Ending]) -> None:  # type: ignore[no-untyped-def]
    """It may take from an owner with more, but never from one with less."""
    store = await open_store(6, 2**30, evicts=True)
    for owner, count in (("cid", 1), ("bob", 2), ("ann", 3)):
        for number in range(count):
            await open_session(store, f"{owner}{number}", owner)
            clock.advance(1)
    await open_session(store, "more", "bob")
    assert [one.owner for one in told] in (["bob"], ["ann"])


async def test_among_owners_of_as_much_the_one_unused_for_longest_makes_room(  # type: ignore[no-untyped-def]
    open_store, clock: FakeClock, told: list[Ending]
) -> None:
    """The ids do not matter: neither the most recently active owner nor the newest one loses its only session."""
    store = await open_store(6, 2**20, evicts=True)
    for owner in "abcdef":
        await open_session(store, "s", owner)
        clock.advance(1)
    for owner in "ab":
        await advance(store, "s", owner)
        await flush(store)
        clock.advance(1)
    for number in range(6):
        await open_session(store, "s", f"Z{number}")
        clock.advance(1)
    assert [one.owner for one in told] == ["c", "d", "e", "f", "a", "b"]


async def test_what_sessions_take_is_told(open_store) -> None:  # type: ignore[no-untyped-def]
    """A session counts with what the bound measures, and an ended one with nothing."""
    store = await open_store(9, 20_000, evicts=False)
    assert await store.num_bytes() == 0
    (row,) = await store.create([make_birth("a", parts={"large": bytes(15_000)})])
    assert 15_000 < await store.num_bytes() < 20_000
    await store.end(row, EndReason.DELETED)
    assert await store.num_bytes() == 0
