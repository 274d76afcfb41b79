"""Changes of many sessions that are committed together: each is applied or refused separately, before it is
reported."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.server.state.conftest import LONG, RedisServer, advance, make_birth, make_store, step, take
from tests.server.state.redis_opening import SLOW, lose_answers, opened, run_cli
from tests.server.state.test_redis_cluster import clustered

from carousel.errors import SessionMoved, StoreUnavailable
from carousel.state.redis_store import RedisStore, Timing
from carousel.state.store import EndReason, GroupStore, Held, Row


@pytest.fixture(params=["redis", "cluster"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[GroupStore]:
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "redis":
            made = make_store("redis", request, tmp_path)
        else:
            nodes = await stack.enter_async_context(clustered(tmp_path, 2))
            made = RedisStore(nodes[0].url, LONG, timing=Timing(lease=10.0, time_out=20.0))
        assert isinstance(made, GroupStore)
        await made.start(lambda _: None)
        stack.push_async_callback(made.close)
        yield made


async def held_sessions(store: GroupStore, count: int) -> list[Held]:
    names = [f"s{number}" for number in range(count)]
    await store.create([make_birth(name) for name in names])
    return [await take(store, name) for name in names]


async def test_each_is_committed(store: GroupStore) -> None:
    """More of them than travel at once; rows in order, and the parts that each had put and dropped."""
    helds = await held_sessions(store, 300)
    changes = [(held, step(held, {"x": held.row.id.encode()}, ("at/0",))) for held in helds]
    rows = await store.commit_all(changes)
    for held, row in zip(helds, rows, strict=True):
        assert isinstance(row, Row)
        assert (row.id, row.revision, row.position) == (held.row.id, 1, 1)
        assert await store.read("ann", row.id) == row
        await store.release(held)
        assert (await take(store, row.id)).parts == {"x": row.id.encode()}


async def test_what_has_moved_is_refused_and_the_others_are_not(store: GroupStore) -> None:
    """The refused ones were changed by another turn, have ended, or have ended and were created again."""
    helds = await held_sessions(store, 6)
    row = await advance(store, "s1")
    for number in (3, 4):
        await store.end(helds[number].row, EndReason.DELETED)
    await store.create([make_birth("s4")])
    found = await store.commit_all([(held, step(held, {"x": b"1"})) for held in helds])
    assert [type(one) for one in found] == [Row, SessionMoved, Row, SessionMoved, SessionMoved, Row]
    assert await store.read("ann", "s1") == row
    assert (await take(store, "s4")).row.position == 0


async def test_one_after_the_other_on_the_same_hold(store: GroupStore) -> None:
    """The second goes on from the first."""
    helds = await held_sessions(store, 3)
    for number in range(1, 4):
        rows = await store.commit_all([(held, step(held, {f"at/{number}": b"x"})) for held in helds])
        assert [isinstance(row, Row) and row.position for row in rows] == [number] * 3
        helds = [
            Held(row, {**held.parts, f"at/{number}": b"x"}, held.epoch)
            for held, row in zip(helds, rows, strict=True)
            if isinstance(row, Row)
        ]
    for held in helds:
        await store.release(held)
        assert (await take(store, held.row.id)).parts == held.parts


async def test_nothing_is_committed_by_a_store_that_is_closed(store: GroupStore) -> None:
    helds = await held_sessions(store, 2)
    await store.close()
    found = await store.commit_all([(held, step(held, {"x": b"1"})) for held in helds])
    assert [type(one) for one in found] == [StoreUnavailable] * 2


async def test_of_none_nothing_comes(store: GroupStore) -> None:
    assert await store.commit_all([]) == []


async def test_answers_that_are_lost_are_asked_for_again(
    shared_redis: RedisServer, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each change is applied once; also where Redis has forgotten its scripts."""
    store = make_store("redis", request, tmp_path)
    assert isinstance(store, RedisStore)
    await store.start(lambda _: None)
    helds = await held_sessions(store, 20)
    lose_answers(store, monkeypatch)
    for number in range(1, 6):
        if number == 3:
            run_cli(shared_redis, "script", "flush")
        rows = await store.commit_all([(held, step(held, {"x": b"%d" % number})) for held in helds])
        assert [isinstance(row, Row) and row.position for row in rows] == [number] * 20
        helds = [Held(row, {}, held.epoch) for held, row in zip(helds, rows, strict=True) if isinstance(row, Row)]
    monkeypatch.undo()
    await store.close()


async def test_whoever_gives_up_leaves_the_others_their_answers(store: GroupStore) -> None:
    """Several commit at once; one is cancelled."""
    helds = await held_sessions(store, 30)
    tasks = [
        asyncio.create_task(store.commit_all([(held, step(held, {"x": b"1"})) for held in helds[first : first + 10]]))
        for first in (0, 10, 20)
    ]
    await asyncio.sleep(0)
    tasks[1].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes[1], asyncio.CancelledError)
    for outcome in (outcomes[0], outcomes[2]):
        assert isinstance(outcome, list)
        assert all(isinstance(row, Row) for row in outcome)


async def test_steps_of_one_moment_travel_together_within_a_bound(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_cli(shared_redis, "flushall")
    async with opened(shared_redis, SLOW) as store:
        helds = await held_sessions(store, 400)
        sizes, exchange = list[int](), store._link._exchange

        async def note(commands: Sequence[Any]) -> list[Any]:
            sizes.append(len(commands))
            return await exchange(commands)

        monkeypatch.setattr(store._link, "_exchange", note)
        steps = [helds[first : first + 100] for first in range(0, 400, 100)]
        await asyncio.gather(*(store.commit_all([(held, step(held, {"x": b"1"})) for held in one]) for one in steps))
        assert sizes == [200, 200]
