"""Faults that are planted where streams hold sessions are found by what is asked of those: the differential test, and
for what is a matter of moments a race of its own.
"""

import asyncio
from pathlib import Path

import pytest
from tests.bounds import make_bounds, make_retention
from tests.fakes import GatedModel, same_snapshot
from tests.server.sessions.pairs import run_pair
from tests.worlds import Plan, World, running_world

from carousel.errors import CarouselError
from carousel.sessions import residents
from carousel.sessions.conversation import Conversation
from carousel.sessions.requests import Caller, PredictionRequest
from carousel.sessions.resident import Named, Plain, Resident
from carousel.sessions.residents import Residents
from carousel.sessions.turn_log import Drafted, TurnLog

ROW_BYTES = 40  # of the toy model: four units, a count, the hidden vector


def _reuse_early(patch: pytest.MonkeyPatch) -> None:
    """A slot is free although its step still runs."""

    async def rested(self: Resident) -> None:
        return None

    patch.setattr(Resident, "rested", rested)


def _lose_ids(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Resident, "is_known", lambda self, request_id: False)


def _keep_stale(patch: pytest.MonkeyPatch) -> None:
    """A boundary has the row before its own."""
    row = Resident._row
    patch.setattr(Resident, "_row", lambda self, place: row(self, place - (place < self._place)))


def _apply_twice(patch: pytest.MonkeyPatch) -> None:
    """A turn that happened goes the ordinary way as well."""

    async def run_turn(self: Residents, resident: Resident, plain: Plain) -> None:
        await real(self, resident, plain)

    real = Residents.run_turn
    patch.setattr(Residents, "run_turn", run_turn)


def _answer_early(patch: pytest.MonkeyPatch) -> None:
    """The write comes after the answer."""

    def add(self: TurnLog, drafted: Drafted) -> None:
        ids, log_probabilities, _ = drafted.found
        position = drafted.resident.position + 1
        drafted.sink.put(Named(ids, log_probabilities, position, position))
        asyncio.get_running_loop().call_later(0.05, real, self, drafted._replace(sink=Deaf()))

    real = TurnLog.add
    patch.setattr(TurnLog, "add", add)


class Deaf:
    is_over = False

    def put(self, outcome: Named | Exception | None) -> None:
        return None


MUTANTS = {
    "a lost id": (_lose_ids, "memory"),
    "a stale boundary": (_keep_stale, "memory"),
    "a turn applied twice": (_apply_twice, "memory"),
    "an answer before its write": (_answer_early, "sqlite"),
}


async def run_race() -> None:
    """A held turn is given up while its step runs, and another stream wants the only slot: it must not have it before
    the step has ended, which writes a row that is the other's first one."""
    bounds = make_bounds(max_held_bytes=3 * ROW_BYTES, ring_size=3)
    model = GatedModel()
    plan = Plan(model, bounds=bounds, retention=make_retention(max_turns=1, max_answers=2, max_answer_bytes=65_536))
    async with running_world(plan) as world:
        one, other = [await _begin(world, name) for name in ("a", "b")]
        for token_id in (3, 4):
            assert await one.answer_plain(Plain(token_id, 3)) is not None
        model.close()
        given_up = asyncio.create_task(one.answer_plain(Plain(5, 3)))
        await model.until_held()
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        closing = asyncio.create_task(one.close())
        asking = asyncio.create_task(_ask(other, 6))
        for _ in range(50):
            await asyncio.sleep(0)
        model.gate.set()
        await asyncio.gather(closing, asking)
        await other.close()
        assert same_snapshot(await world.snapshot("b"), world.oracle.feed(world.engine.start_snapshot, (2, 6)))


async def _begin(world: World, name: str) -> Conversation:
    """A stream that goes on on a session of its own, which has consumed token 2."""
    await world.open(name)
    talk = world.sessions.converse("ann")
    talk.name(name)
    await talk.answer(PredictionRequest((2,), 3), Caller("ann"))
    return talk


async def _ask(talk: Conversation, token_id: int) -> None:
    if await talk.answer_plain(Plain(token_id, 3)) is None:
        await talk.answer(PredictionRequest((token_id,), 3), Caller("ann"))


async def test_a_slot_is_not_used_anew_before_its_step_has_ended() -> None:
    await run_race()


async def test_a_slot_that_is_used_too_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first planted fault."""
    _reuse_early(monkeypatch)
    with pytest.raises(AssertionError):
        await run_race()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MUTANTS)
async def test_a_planted_fault_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By one of many seeds."""
    monkeypatch.setattr(residents, "_WANTED_SECONDS", 0.0)
    plant, kind = MUTANTS[name]
    plant(monkeypatch)
    found = None
    for seed in range(60):
        directory = tmp_path / str(seed)
        directory.mkdir()
        try:
            async with asyncio.timeout(5):
                await run_pair(kind, seed, directory, "")
        except (AssertionError, TimeoutError, CarouselError) as error:
            found = error
            break
    assert found is not None
