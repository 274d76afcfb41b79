"""A server that dies, is disconnected or is cancelled between any two of its calls to Redis leaves nothing that a retry
does not finish, and nothing half created where no retry comes."""

import asyncio
import contextlib
import itertools

import pytest
from tests.server.state.conftest import RedisServer, advance, make_birth, open_session
from tests.server.state.redis_faults import Faults, until_quiet
from tests.server.state.redis_opening import call_due, opened, run_cli, two

from carousel.errors import SessionExists, StoreUnavailable
from carousel.state import redis_births
from carousel.state.redis_deeds import Intent, Stage
from carousel.state.redis_store import RedisStore
from carousel.state.store import Birth, Deed, Ending, EndReason, Repeated, Row

EVER = 10**9


@pytest.fixture
def quick_undo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_births, "_PAUSE_SECONDS", 0.02)


def deed_of(births: list[Birth], request_id: str) -> Deed:
    return Deed("ann", request_id, "print", tuple((birth.id, birth.incarnation) for birth in births))


def births_of(number: int, part: bytes = b"first") -> list[Birth]:
    return [make_birth(f"{number}-{name}", parts={"at/0": part}, position=len(part)) for name in "abc"]


async def who_lives(store: RedisStore, number: int) -> list[Row]:
    found = [await store.read("ann", f"{number}-{name}") for name in "abc"]
    assert not any(isinstance(one, Ending) for one in found)
    return [one for one in found if isinstance(one, Row)]


@pytest.mark.parametrize("is_carried_out", [False, True])
async def test_a_creation_cut_off_anywhere_is_finished_by_its_repeat(
    shared_redis: RedisServer, *, is_carried_out: bool
) -> None:
    """All three sessions belong to one request, at one point; the deed names them; nothing else remains, and another
    retry creates nothing."""
    run_cli(shared_redis, "flushall")
    async with opened(shared_redis) as other:
        for number in itertools.count():
            is_dead = True
            first, again = births_of(number), births_of(number, b"later one")
            async with opened(shared_redis) as dead:
                Faults(dead).lose(number, EVER, is_carried_out=is_carried_out)
                try:
                    await dead.create(first, deed_of(first, f"r{number}"))
                    is_dead = False
                except StoreUnavailable:
                    pass
            for _ in range(2):
                try:
                    rows = await other.create(again, deed_of(again, f"r{number}"))
                except Repeated:
                    rows = await who_lives(other, number)
                assert len({row.position for row in rows}) == 1
                assert rows == await who_lives(other, number)
                deed = await other.recall("ann", f"r{number}")
                assert deed is not None
                assert deed.targets == tuple((row.id, row.incarnation) for row in rows)
            assert len(await other.list_owned("ann", (0.0, ""), 999)) == 3 * (number + 1)
            assert await other.num_live() == 3 * (number + 1)
            if not is_dead:
                break
    assert number > 6


@pytest.mark.parametrize("is_carried_out", [False, True])
async def test_a_refused_creation_cut_off_anywhere_leaves_nothing(
    shared_redis: RedisServer, *, is_carried_out: bool
) -> None:
    """One of its ids is taken: its retry is refused as well, none of the others exists then, and the request's id is
    free for another request."""
    run_cli(shared_redis, "flushall")
    async with opened(shared_redis) as other:
        for number in itertools.count():
            taken = await open_session(other, f"{number}-c")
            first, again = births_of(number), births_of(number, b"later one")
            async with opened(shared_redis) as dead:
                faults = Faults(dead)
                faults.lose(number, EVER, is_carried_out=is_carried_out)
                with pytest.raises((SessionExists, StoreUnavailable)):
                    await dead.create(first, deed_of(first, f"r{number}"))
                is_dead = faults.num_calls > number
            with pytest.raises(SessionExists):
                await other.create(again, deed_of(again, f"r{number}"))
            assert await who_lives(other, number) == [taken]
            assert await other.recall("ann", f"r{number}") is None
            assert await other.num_live() == 2 * number + 1
            await other.create([free := make_birth(f"{number}-free")], deed_of([free], f"r{number}"))
            if not is_dead:
                break
    assert number > 8


@pytest.mark.parametrize("is_carried_out", [False, True])
async def test_a_deletion_cut_off_anywhere_is_finished_by_its_repeat(
    shared_redis: RedisServer, *, is_carried_out: bool
) -> None:
    """The intended session is gone and known to be deleted; a later session of the same id stays."""
    async with two(shared_redis) as (other, _):
        for number in itertools.count():
            is_dead = True
            row = await open_session(other, str(number))
            async with opened(shared_redis) as dead:
                Faults(dead).lose(number, EVER, is_carried_out=is_carried_out)
                try:
                    assert await dead.end(row, EndReason.DELETED, deed_of_end(row, number))
                    is_dead = False
                except StoreUnavailable:
                    pass
            with contextlib.suppress(Repeated):
                await other.end(row, EndReason.DELETED, deed_of_end(row, number))
            ending = await other.read("ann", str(number))
            assert isinstance(ending, Ending)
            assert (ending.reason, ending.incarnation) == (EndReason.DELETED, row.incarnation)
            assert await other.recall("ann", f"r{number}") == deed_of_end(row, number)
            new = await open_session(other, str(number))
            with pytest.raises(Repeated):
                await other.end(new, EndReason.DELETED, deed_of_end(new, number))
            assert await other.read("ann", str(number)) == new
            if not is_dead:
                break
    assert number >= 2


def deed_of_end(row: Row, number: int) -> Deed:
    return Deed("ann", f"r{number}", "print", ((row.id, row.incarnation),))


@pytest.mark.parametrize("has_deed", [False, True])
@pytest.mark.parametrize("is_carried_out", [False, True])
@pytest.mark.usefixtures("quick_undo")
async def test_an_unanswered_creation_is_whole_or_nothing(
    shared_redis: RedisServer, *, has_deed: bool, is_carried_out: bool
) -> None:
    """Redis is silent for two calls, wherever that is: when it answers again all three sessions are there or none, and
    the deed says which."""
    run_cli(shared_redis, "flushall")
    async with opened(shared_redis) as store, opened(shared_redis) as other:
        faults = Faults(store)
        for number in itertools.count():
            births = births_of(number)
            faults.lose(number, 2, is_carried_out=is_carried_out)
            is_told = False
            try:
                await store.create(births, deed_of(births, f"r{number}") if has_deed else None)
                is_told = True
            except StoreUnavailable:
                pass
            num_calls = faults.num_calls
            await until_quiet(store)
            rows = await who_lives(other, number)
            assert len(rows) in (0, 3)
            if is_told:
                assert len(rows) == 3
            if has_deed:
                assert (await other.recall("ann", f"r{number}") is not None) == bool(rows)
            if num_calls <= number:
                break
    assert number > 4


@pytest.mark.usefixtures("quick_undo")
async def test_what_a_repeat_has_finished_is_not_undone(shared_redis: RedisServer) -> None:
    """The server without an answer would undo it, and comes back later."""
    async with two(shared_redis) as (cut_off, other):
        for number in range(4):  # record, enlist, schedule, and the first of the three
            births, again = births_of(number), births_of(number)
            faults = Faults(cut_off)
            faults.lose(3 + number, EVER)
            with pytest.raises(StoreUnavailable):
                await cut_off.create(births, deed_of(births, f"r{number}"))
            rows = await other.create(again, deed_of(again, f"r{number}"))
            faults.lose(0, 0)
            await until_quiet(cut_off)
            assert await who_lives(other, number) == rows
            assert await other.recall("ann", f"r{number}") == deed_of(births, f"r{number}")


async def test_what_was_recalled_is_not_undone(shared_redis: RedisServer) -> None:
    """Everything was created, but its server has not reported it: once another caller was told, it stays."""
    async with two(shared_redis) as (cut_off, other):
        births = births_of(0)
        intent = await cut_off._deeds.record(Intent(deed_of(births, "r"), tuple(births)))
        rows = await cut_off.create(births)
        assert await other.recall("ann", "r") == deed_of(births, "r")
        assert not await cut_off._births._undo(births, intent)
        assert await who_lives(other, 0) == rows


async def test_what_is_being_undone_is_not_taken_up(shared_redis: RedisServer) -> None:
    """A server died while it undid a refused creation: a retry finishes that first, and starts again."""
    async with two(shared_redis) as (dead, other):
        first, again = births_of(0), births_of(0, b"later one")
        intent = await dead._deeds.record(Intent(deed_of(first, "r"), tuple(first)))
        await dead.create(first[:2])
        assert await dead._deeds.settle(intent, Stage.UNDOING, 1.0)
        assert await other.recall("ann", "r") is None
        rows = await other.create(again, deed_of(again, "r"))
        assert [row.incarnation for row in rows] == [birth.incarnation for birth in again]
        assert not await dead._deeds.settle(intent, Stage.DONE, 1.0)
        assert await other.recall("ann", "r") == deed_of(again, "r")
        assert await other.num_live() == 3


async def test_who_is_used_is_not_undone(shared_redis: RedisServer) -> None:
    """A session may be in use although no caller got its creation's answer."""
    async with two(shared_redis) as (store, _):
        used, unused = await open_session(store, "used"), await open_session(store, "unused")
        row = await advance(store, "used")
        for one in (used, unused):
            await store._endings.undo(("ann", one.id), one.incarnation)
        assert [await store.read("ann", name) for name in ("used", "unused")] == [row, None]


@pytest.mark.parametrize("has_deed", [False, True])
async def test_a_cancelled_creation_is_whole_or_nothing(shared_redis: RedisServer, *, has_deed: bool) -> None:
    """Cancelled at any call: what can be retried is finished, anything else is undone and leaves no ending."""
    run_cli(shared_redis, "flushall")
    async with opened(shared_redis) as store:
        faults = Faults(store)
        for number in itertools.count():
            births = births_of(number)
            creation = asyncio.create_task(store.create(births, deed_of(births, f"r{number}") if has_deed else None))
            faults.lose(0, 0)

            async def cancel(at: int = number, task: "asyncio.Task[list[Row]]" = creation) -> None:
                if faults.num_calls > at:
                    task.cancel()

            faults.hook = cancel
            (outcome,) = await asyncio.gather(creation, return_exceptions=True)
            faults.hook = None
            await until_quiet(store)
            rows = await who_lives(store, number)
            if not isinstance(outcome, asyncio.CancelledError):
                assert rows == outcome
                break
            assert len(rows) == (3 if has_deed else 0)
            assert (await store.recall("ann", f"r{number}") is not None) == has_deed
    assert number >= 5


@pytest.mark.parametrize("way", ["request", "sweep"])
async def test_a_cancelled_end_is_whole(shared_redis: RedisServer, way: str) -> None:
    """Cancelled at any call, the ending is reported once and leaves no entry."""
    told: list[Ending] = []
    run_cli(shared_redis, "flushall")
    async with opened(shared_redis, told=told.append) as store:
        faults = Faults(store)
        for number in itertools.count():
            told.clear()
            row = await open_session(store, f"{number}")
            run_cli(shared_redis, "hset", f"carousel2:{{ann:{number}}}:row", "expires_at", "1")
            call_due(shared_redis)
            work = store.sweep(9) if way == "sweep" else store.end(row, EndReason.DELETED)
            ending: asyncio.Task[object] = asyncio.create_task(work)
            faults.lose(0, 0)

            async def cancel(at: int = number, task: "asyncio.Task[object]" = ending) -> None:
                if faults.num_calls > at:
                    task.cancel()

            faults.hook = cancel
            (outcome,) = await asyncio.gather(ending, return_exceptions=True)
            faults.hook = None
            await until_quiet(store)
            is_gone = run_cli(shared_redis, "hexists", f"carousel2:{{ann:{number}}}:row", "ending") == "1"
            assert [one.incarnation for one in told] == [row.incarnation] * is_gone
            if is_gone:
                assert await store.num_live() == 0
            else:
                assert await store.end(row, EndReason.DELETED)
            if not isinstance(outcome, asyncio.CancelledError):
                assert is_gone
                break
    assert number >= 2
