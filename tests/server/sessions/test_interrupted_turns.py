"""A turn whose store fails, or whose caller leaves, is applied wholly or not at all."""

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

import pytest
from tests.fakes import Fault
from tests.server.sessions.sequence_turns import ANN, faults_of, faulty_plan, position, settle, turn
from tests.worlds import running_world

from carousel.errors import PositionMismatch, StoreUnavailable
from carousel.sessions.requests import Caller, Standing


async def test_a_store_that_fails_before_the_write_leaves_everything() -> None:
    """The turn is UNAVAILABLE and not applied; its repeat is applied."""
    async with running_world(faulty_plan()) as world:
        await world.open()
        caller = replace(ANN, request_id="r")
        faults_of(world).faults[Fault.BEFORE_WRITE] = 1
        with pytest.raises(StoreUnavailable):
            await turn(world, caller, 1)
        assert await position(world) == 0
        assert (await turn(world, caller, 1)).replay is None
        assert await position(world) == 1


async def test_a_write_whose_answer_was_lost_is_not_applied_twice() -> None:
    """The turn was written and its caller does not know that; the repeat finds the record."""
    async with running_world(faulty_plan()) as world:
        await world.open()
        caller = replace(ANN, request_id="r", expected_position=0)
        faults_of(world).faults[Fault.AFTER_WRITE] = 1
        with pytest.raises(StoreUnavailable):
            await turn(world, caller, 1)
        again = await turn(world, caller, 1)
        assert again.standing == Standing(1, 0, is_replay=True)
        assert await position(world) == 1


async def test_expected_position_alone_keeps_a_lost_write_from_being_applied_twice() -> None:
    """Without a request id, the repeat is refused with the position, which shows that the turn was applied."""
    async with running_world(faulty_plan()) as world:
        await world.open()
        caller = replace(ANN, expected_position=0)
        faults_of(world).faults[Fault.AFTER_WRITE] = 1
        with pytest.raises(StoreUnavailable):
            await turn(world, caller, 1)
        with pytest.raises(PositionMismatch) as refused:
            await turn(world, caller, 1)
        assert refused.value.details["position"] == "1"


@pytest.mark.parametrize("fault", [Fault.ACQUIRE])
async def test_a_store_that_fails_to_load_refuses_the_turn(fault: Fault) -> None:
    """No caller gets a sequence, the line is free again, and service resumes with the store."""
    async with running_world(faulty_plan(max_turns_per_session=0)) as world:
        await world.open()
        faults_of(world).faults[fault] = 3
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await turn(world, ANN, 1)
        await turn(world, ANN, 1)
        assert await position(world) == 1


async def test_a_commit_is_never_cancelled_and_the_line_waits_for_it() -> None:
    """However often its caller is cancelled, a write runs to its end before another caller gets the session."""
    may_commit = asyncio.Event()
    is_committing = asyncio.Event()

    async def pause(name: str) -> None:
        if name == "commit":
            is_committing.set()
            await may_commit.wait()

    async with running_world(faulty_plan(pause)) as world:
        await world.open()
        caller = replace(ANN, request_id="r")
        first = asyncio.create_task(turn(world, caller, 1))
        await is_committing.wait()
        repeat = asyncio.create_task(turn(world, caller, 1))
        for _ in range(3):
            first.cancel()
            await settle()
        assert not first.done()
        assert faults_of(world).log == ["acquire", "commit"]
        may_commit.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (await repeat).standing == Standing(1, 0, is_replay=True)
        assert faults_of(world).log == ["acquire", "commit", "committed", "release", "acquire", "release"]


@pytest.mark.parametrize("fault", [Fault.BEFORE_WRITE, Fault.AFTER_WRITE])
async def test_a_commit_that_fails_after_its_caller_left_is_seen(fault: Fault) -> None:
    """No error stays unread, and the session is where the store has it."""
    may_commit = asyncio.Event()

    async def pause(name: str) -> None:
        if name == "commit":
            await may_commit.wait()

    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with running_world(faulty_plan(pause)) as world:
        await world.open()
        faults_of(world).faults[fault] = 1
        first = asyncio.create_task(turn(world, ANN, 1))
        await settle()
        first.cancel()
        await settle()
        may_commit.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await position(world) == (1 if fault is Fault.AFTER_WRITE else 0)
    assert complaints == []


async def test_a_turn_cancelled_anywhere_is_applied_wholly_or_not_at_all() -> None:
    """The turn is cancelled after each number of steps of the event loop, with a store that takes several steps for
    everything: the line is free, the repeat settles it, and the session has moved once."""

    async def pause(name: str) -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    outcomes = set()
    async with running_world(faulty_plan(pause, max_turns_per_session=0)) as world:
        for num_steps in range(40):
            session_id = f"s{num_steps}"
            await world.open(session_id)
            caller = Caller("ann", session_id, request_id="r", expected_position=0)
            running = asyncio.create_task(turn(world, caller, 1, 2))
            for _ in range(num_steps):
                await asyncio.sleep(0)
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            row = await world.operations.get("ann", session_id)
            again = await turn(world, caller, 1, 2)
            assert (row.position, again.replay is None) in ((0, True), (2, False))
            assert (await world.operations.get("ann", session_id)).position == 2
            outcomes.add((running.cancelled(), row.position))
    assert outcomes == {(True, 0), (True, 2), (False, 2)}
    assert "CancelledError" not in faults_of(world).log
