"""A sealed state is a sequence that its caller keeps, good for its owner, at its position, for a time."""

import asyncio
from dataclasses import replace

import pytest
from tests.fakes import same_snapshot
from tests.server.sessions.sequence_turns import ASKED, outcome, turn
from tests.worlds import Plan, running_world

from carousel.errors import ModelFailed, PositionMismatch, StateRefused
from carousel.sessions.requests import Caller, GenerationRequest


async def test_a_sealed_state_is_a_sequence_that_its_caller_keeps() -> None:
    """The next state comes back with the position; no session is made, so nothing can be lost."""
    async with running_world() as world:
        state = world.seal(world.engine.start_snapshot)
        for number in (1, 2, 3):
            async with world.sequences.hold(
                Caller("ann", state=state, expected_position=number - 1), ASKED
            ) as sequence:
                standing = await sequence.save(outcome(world, sequence, number))
            assert (standing.position, standing.durable_position) == (number, number)
            state = standing.state
        async with world.sequences.hold(Caller("ann", state=state), ASKED) as sequence:
            assert same_snapshot(sequence.start, world.oracle.feed(world.oracle.start(), (1, 2, 3)))
        assert await world.store.num_live() == 0


async def test_a_sealed_state_is_for_its_owner_at_its_position_and_for_a_time() -> None:
    """Another owner, another position and a later day are refused."""
    async with running_world() as world:
        state = world.seal(world.engine.start_snapshot)
        with pytest.raises(StateRefused, match="someone else"):
            await turn(world, Caller("bob", state=state))
        with pytest.raises(PositionMismatch) as refused:
            await turn(world, Caller("ann", state=state, expected_position=3))
        assert refused.value.details == {"position": "0"}
        world.clock.advance(50)
        with pytest.raises(StateRefused, match="expired"):
            await turn(world, Caller("ann", state=state))


@pytest.mark.parametrize("replays_seals", [True, False])
async def test_whether_a_state_may_be_used_again_is_a_setting(replays_seals: bool) -> None:
    """Where it may, it gives the same again; where it may not, the second use is refused. A refused turn is no use."""
    async with running_world(Plan(replays_seals=replays_seals)) as world:
        caller = Caller("ann", state=world.seal(world.oracle.start()))
        with pytest.raises(ModelFailed):
            async with world.sequences.hold(caller, ASKED):
                raise ModelFailed("oops")
        with pytest.raises(PositionMismatch):
            await turn(world, replace(caller, expected_position=9))
        await turn(world, caller, 1)
        if replays_seals:
            await turn(world, caller, 1)
        else:
            with pytest.raises(StateRefused) as refused:
                await turn(world, caller, 1)
            assert refused.value.details["why"] == "replayed"


async def test_two_turns_cannot_use_one_state_at_once_where_it_is_good_once() -> None:
    """While the first runs, the second is refused."""
    async with running_world(Plan(replays_seals=False)) as world:
        caller = Caller("ann", state=world.seal(world.oracle.start()))
        async with world.sequences.hold(caller, ASKED):
            with pytest.raises(StateRefused, match="used before"):
                await turn(world, caller, 1)


@pytest.mark.parametrize("end", [asyncio.CancelledError(), ValueError("oops"), ModelFailed("told")])
async def test_a_state_of_which_something_may_be_known_stays_used(end: BaseException) -> None:
    """A turn was given up, broke or told something: where a state is good once, it is used."""
    async with running_world(Plan(replays_seals=False)) as world:
        caller = Caller("ann", state=world.seal(world.oracle.start()))

        async def fail() -> None:
            async with world.sequences.hold(caller, ASKED) as sequence:
                sequence.is_told = isinstance(end, ModelFailed)
                raise end

        with pytest.raises(type(end)):
            await fail()
        with pytest.raises(StateRefused, match="used before"):
            await turn(world, caller, 1)


async def test_a_generation_that_is_closed_has_used_its_state() -> None:
    """The first piece is the use, where a state is good once."""
    async with running_world(Plan(replays_seals=False)) as world:
        caller = Caller("ann", state=world.seal(world.oracle.start()))
        pieces = world.sessions.generate(caller, GenerationRequest((1,), max_tokens=1000))
        await anext(pieces)
        await pieces.aclose()
        with pytest.raises(StateRefused, match="used before"):
            await turn(world, caller, 1)


async def test_a_state_whose_next_one_was_made_stays_used() -> None:
    """This holds even when its caller left before the answer was sent."""
    async with running_world(Plan(replays_seals=False)) as world:
        caller = Caller("ann", state=world.seal(world.oracle.start()))

        async def fail() -> None:
            async with world.sequences.hold(caller, ASKED) as sequence:
                await sequence.save(outcome(world, sequence, 1))
                raise ValueError("oops")

        with pytest.raises(ValueError, match="oops"):
            await fail()
        with pytest.raises(StateRefused, match="used before"):
            await turn(world, caller, 1)
