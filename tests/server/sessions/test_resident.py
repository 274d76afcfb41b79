"""A held session is what it would be in the store: every boundary, tail, recent token, record and moment of a turn."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from tests.bounds import make_bounds, make_retention
from tests.fakes import GatedModel, ToyModel, byte_tokenizer, same_snapshot
from tests.worlds import Plan, World, running_world

from carousel.errors import ModelFailed
from carousel.sessions.requests import Caller, PredictionRequest
from carousel.sessions.resident import Kit, Plain, Resident, checked
from carousel.state.store import Change, Held

TEXT = "a\u00e9\u4e00\U0001f600b\u00e9".encode() + b"\xff\xe4z\xf0\x9f"


def byte_plan(window: int = 3, **retention: int) -> Plan:
    kept = {"max_turns": 4, "max_answers": 3, "max_answer_bytes": 65_536, "max_request_ids": 12} | retention
    bounds = make_bounds(max_held_bytes=2**20, ring_size=kept["max_turns"] + 2, penalty_window=window)
    return Plan(ToyModel(256), byte_tokenizer(), bounds, make_retention(**kept))


@contextlib.asynccontextmanager
async def resting(plan: Plan | None = None) -> AsyncIterator[tuple[World, Resident]]:
    """A held session without a stream."""
    async with running_world(plan or byte_plan()) as world:
        await world.open()
        yield world, await hold_anew(world)


async def take(world: World, resident: Resident, plain: Plain) -> Any:
    ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def then(found: Any, error: Exception | None) -> None:
        try:
            if not ended.done():
                ended.set_result(resident.note(plain, checked(plain, found), world.clock.now))
        except ModelFailed as error:
            ended.set_exception(error)
        finally:
            resident.finish()

    resident.begin(plain, world.engine, then)
    return await ended


def applied(held: Held, change: Change) -> Held:
    """As a store does."""
    parts = {key: part for key, part in held.parts.items() if key not in change.drop} | dict(change.put)
    return Held(replace(held.row, revision=held.row.revision + 1, position=change.position), parts)


@pytest.mark.parametrize("window", [0, 3, 64])
@pytest.mark.parametrize("num_together", [1, 2, 5, len(TEXT)])
async def test_it_is_written_as_turns_in_the_ordinary_way(num_together: int, window: int) -> None:
    """Characters of several bytes, broken ones too, that begin before it was written and end after."""
    plan = byte_plan(window)
    async with running_world(plan) as world:
        await world.open()
        for number, token in enumerate(TEXT):
            caller = Caller("ann", "s", request_id=f"r{number}")
            await world.sessions.predict(caller, PredictionRequest((token,), 3))
        expected, ledger, codec = await world.hold(), world.ledger, world.codec
    async with resting(byte_plan(window)) as (world, resident):
        for number, token in enumerate(TEXT, 1):
            await take(world, resident, Plain(token, 3, f"r{number - 1}"))
            if number % num_together == 0 or number == len(TEXT):
                change = resident.change(world.clock.now)
                resident.written(await world.store.commit(resident.held, change), change)
        found = await world.hold()
    assert ledger.positions(found) == ledger.positions(expected)
    for position in ledger.positions(found):
        one, other = (codec.decode(ledger.find(held, position, "")) for held in (found, expected))
        assert same_snapshot(one, other)
        assert one.tail == other.tail
    for number in range(len(TEXT)):
        assert ledger.is_used(found, f"r{number}") == ledger.is_used(expected, f"r{number}")
        assert ledger.find_answer(found, f"r{number}") == ledger.find_answer(expected, f"r{number}")
    assert found.parts["used"] == expected.parts["used"]


async def test_a_change_says_the_same_until_the_next_turn() -> None:
    """To look at it moves nothing."""
    async with resting() as (world, resident):
        for token in range(9):
            await take(world, resident, Plain(token, 2, f"r{token}"))
        assert resident.change(world.clock.now) == resident.change(world.clock.now)


async def test_what_it_knows_goes_the_ordinary_way() -> None:
    """Ids of its own turns, of those before it was held, and no others; also of those whose answers are gone."""
    async with resting() as (world, resident):
        for token in range(8):
            await take(world, resident, Plain(token, 2, f"r{token}" if token % 2 else ""))
        assert [resident.is_known(f"r{number}") for number in range(9)] == [bool(n % 2) and n < 8 for n in range(9)]
        change = resident.change(world.clock.now)
        resident.written(await world.store.commit(resident.held, change), change)
        assert [resident.is_known(f"r{number}") for number in range(9)] == [bool(n % 2) and n < 8 for n in range(9)]
        assert resident.num_turns == 0


async def test_a_turn_that_failed_has_not_happened() -> None:
    """The next one starts where it did."""
    plan = byte_plan()
    async with resting(plan) as (world, resident):
        await take(world, resident, Plain(1, 2))
        plan.model.poison_id = 9
        with pytest.raises(ModelFailed):
            await take(world, resident, Plain(9, 2, "r"))
        assert (resident.position, resident.num_turns, resident.is_known("r"), resident.is_busy) == (1, 1, False, False)
        plan.model.poison_id = None
        await take(world, resident, Plain(2, 2))
        snapshot = world.codec.decode(resident.change(0).put["at/000000000001"])
        expected = world.oracle.feed(world.engine.start_snapshot, [1, 2])
        assert all((a == b).all() for a, b in zip(snapshot.state, expected.state, strict=True))


async def test_its_row_is_in_use_until_its_step_has_ended() -> None:
    """Also when its caller has given up long before; then nothing has happened."""
    model = GatedModel()
    async with resting(Plan(model, bounds=make_bounds(max_held_bytes=2**16))) as (world, resident):
        model.close()
        task = asyncio.create_task(take(world, resident, Plain(1, 2)))
        await model.until_held()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        waiting = asyncio.create_task(resident.rested())
        await asyncio.sleep(0.01)
        assert resident.is_busy
        assert not waiting.done()
        model.gate.set()
        await waiting
        assert (resident.is_busy, resident.num_turns) == (False, 0)


async def test_many_wait_for_its_rest() -> None:
    """One of them may give up."""
    model = GatedModel()
    async with resting(Plan(model, bounds=make_bounds(max_held_bytes=2**16))) as (world, resident):
        model.close()
        task = asyncio.create_task(take(world, resident, Plain(1, 2)))
        await model.until_held()
        waiting = [asyncio.create_task(resident.rested()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        model.gate.set()
        async with asyncio.timeout(5):
            await asyncio.gather(*waiting[1:], task)
            await resident.rested()


@pytest.mark.parametrize(("used_at", "now", "age"), [(10.0, 14.0, 4.0), (10.0, 10.0, 0.0), (10.0, 7.0, 0.0)])
async def test_a_change_is_as_old_as_the_last_turn(used_at: float, now: float, age: float) -> None:
    """A clock that was set back makes it no younger than new."""
    async with resting() as (world, resident):
        world.clock.now = used_at
        await take(world, resident, Plain(1, 2))
        assert resident.change(now).age_seconds == age


@pytest.mark.parametrize("max_answer_bytes", [0, 400, 65_536])
async def test_answers_have_the_bound_that_they_have_elsewhere(max_answer_bytes: int) -> None:
    """Those above it are not kept; the requests count as applied all the same."""
    dice = random.Random(2)
    asked = [dice.choice([1, 3, 200]) for _ in range(3)]
    found = []
    for is_held in (True, False):
        async with resting(byte_plan(max_answer_bytes=max_answer_bytes)) as (world, resident):
            for number, k in enumerate(asked):
                if is_held:
                    await take(world, resident, Plain(number, k, f"r{number}"))
                else:
                    caller = Caller("ann", "s", request_id=f"r{number}")
                    await world.sessions.predict(caller, PredictionRequest((number,), k))
            held = applied(resident.held, resident.change(world.clock.now)) if is_held else await world.hold()
            ledger = world.ledger
            found.append([(ledger.find_answer(held, f"r{n}"), ledger.is_used(held, f"r{n}")) for n in range(3)])
    assert found[0] == found[1]


@pytest.mark.parametrize("seed", range(20))
async def test_answers_that_are_too_large_cost_the_others_what_they_cost_elsewhere(seed: int) -> None:
    """In any order, before the session was held and since, and however often it was written meanwhile."""
    dice = random.Random(seed)
    asked = [(dice.choice([1, 200]), dice.random() < 0.8) for _ in range(16)]
    num_before, found = dice.randrange(8), []
    for is_held in (True, False):
        async with resting(byte_plan(max_answer_bytes=400)) as (world, resident):
            for number, (k, has_id) in enumerate(asked):
                name = f"r{number}" if has_id else ""
                if is_held and number >= num_before:
                    if number == num_before:
                        resident = await hold_anew(world)
                    await take(world, resident, Plain(number, k, name))
                    if dice.random() < 0.2:
                        change = resident.change(world.clock.now)
                        resident.written(await world.store.commit(resident.held, change), change)
                else:
                    caller = Caller("ann", "s", request_id=name)
                    await world.sessions.predict(caller, PredictionRequest((number,), k))
            held = await world.hold()
            if is_held and resident.num_turns:
                held = applied(resident.held, resident.change(world.clock.now))
            ledger = world.ledger
            found.append([(ledger.find_answer(held, f"r{n}"), ledger.is_used(held, f"r{n}")) for n in range(16)])
    assert found[0] == found[1]


async def hold_anew(world: World) -> Resident:
    bounds = world.plan.bounds
    kit = Kit(world.engine.columns, world.ledger, world.codec, world.plan.tokenizer, bounds.penalty_window)
    row = world.engine.columns.allocate_slot()
    assert row is not None
    return Resident(kit, await world.hold(), row, 0.0)
