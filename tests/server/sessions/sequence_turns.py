"""What the tests of turns on a sequence share: a store that fails as told, a turn, and where it left the session."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tests.fakes import FaultyStore
from tests.worlds import LIFETIMES, ROOMY, Plan, World

from carousel.sessions.requests import Caller, Prediction, PredictionRequest, Standing
from carousel.sessions.sequence_source import Outcome, TurnSequence
from carousel.state.memory import MemoryStore
from carousel.turns import Candidate

ANN = Caller("ann", "s")
ASKED = PredictionRequest("asked")


def faulty_plan(pause: Callable[[str], Awaitable[None]] | None = None, **changes: Any) -> Plan:
    """Plans a world whose store fails and waits as told."""
    return Plan(store=lambda clock: FaultyStore(MemoryStore(ROOMY, LIFETIMES, clock=clock), pause), **changes)


def faults_of(world: World) -> FaultyStore:
    assert isinstance(world.store, FaultyStore)
    return world.store


def outcome(world: World, sequence: TurnSequence, *ids: int, num_candidates: int = 1) -> Outcome:
    """Returns what a turn that fed the ids leads to."""
    after = world.oracle.feed(sequence.start, ids)
    answer = Prediction((Candidate(1, -0.5),) * num_candidates, (), Standing(after.position, 0))
    return Outcome(after, ids, answer)


async def turn(
    world: World, caller: Caller, *ids: int, request: PredictionRequest = ASKED, size: int = 1
) -> TurnSequence:
    """Takes the sequence, feeds and saves it, unless that was done before."""
    async with world.sequences.hold(caller, request) as sequence:
        if sequence.replay is None:
            await sequence.save(outcome(world, sequence, *ids, num_candidates=size))
    return sequence


async def position(world: World) -> int:
    return (await world.operations.get("ann", "s")).position


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)
