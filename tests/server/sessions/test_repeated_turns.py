"""A turn that is repeated under its request id is applied once and answered from its record."""

import asyncio
from dataclasses import replace

import pytest
from tests.fakes import ToyModel, byte_tokenizer
from tests.server.sessions.sequence_turns import ANN, ASKED, outcome, position, settle, turn
from tests.worlds import Plan, running_world

from carousel.errors import AnswerGone, InvalidRequest, PositionMismatch
from carousel.sessions.operations import Point
from carousel.sessions.requests import Caller, Prediction, PredictionRequest, ScoringRequest, Standing
from carousel.turns import Candidate


async def test_a_repeat_is_answered_from_the_record() -> None:
    """The repeat gets the same answer, marked as a replay; the session does not move."""
    async with running_world() as world:
        await world.open()
        caller = replace(ANN, request_id="r")
        await turn(world, caller, 1, 2)
        again = await turn(world, caller, 1, 2)
        assert again.replay == Prediction((Candidate(1, -0.5),), (), Standing(2, 0))
        assert again.standing == Standing(2, 0, is_replay=True)
        assert await position(world) == 2


async def test_a_repeat_stands_where_its_own_turn_ended() -> None:
    """After other turns and a rewind, a late repeat still gets its own position, not the session's."""
    async with running_world() as world:
        await world.open()
        caller = replace(ANN, request_id="r", expected_position=0)
        await turn(world, caller, 1, 2)
        await turn(world, ANN, 3)
        assert (await turn(world, caller, 1, 2)).standing.position == 2
        await world.operations.rewind("ann", "s", Point(0), None)
        assert (await turn(world, caller, 1, 2)).standing.position == 2
        assert await position(world) == 0


async def test_a_repeat_while_the_first_runs_waits_for_its_record() -> None:
    """The repeat does not begin before the first has ended, and then gets the answer."""
    async with running_world() as world:
        await world.open()
        caller = replace(ANN, request_id="r")
        async with world.sequences.hold(caller, ASKED) as sequence:
            waiting = asyncio.create_task(turn(world, caller, 1))
            await settle()
            assert not waiting.done()
            await sequence.save(outcome(world, sequence, 1))
        assert (await waiting).standing == Standing(1, 0, is_replay=True)
        assert await position(world) == 1


async def test_a_repeat_of_a_turn_that_failed_is_a_first() -> None:
    """Nothing was applied, so nothing was recorded: the repeat that waited runs."""
    async with running_world() as world:
        await world.open()
        caller = replace(ANN, request_id="r")
        may_fail = asyncio.Event()

        async def fail() -> None:
            async with world.sequences.hold(caller, ASKED):
                await may_fail.wait()
                raise ValueError("oops")

        failing = asyncio.create_task(fail())
        await settle()
        waiting = asyncio.create_task(turn(world, caller, 1))
        await settle()
        may_fail.set()
        with pytest.raises(ValueError, match="oops"):
            await failing
        assert (await waiting).replay is None
        assert await position(world) == 1


async def test_an_id_used_for_another_request_is_refused() -> None:
    """The record is given only to its own request, and nothing is applied."""
    async with running_world() as world:
        await world.open()
        caller = replace(ANN, request_id="r")
        await turn(world, caller, 1, request=PredictionRequest("one"))
        with pytest.raises(InvalidRequest, match="^request_id: "):
            await turn(world, caller, 2, request=PredictionRequest("other"))
        assert await position(world) == 1


async def test_ids_are_remembered_by_their_session() -> None:
    """The same id on another session is another request."""
    async with running_world() as world:
        for session_id in ("s", "t"):
            await world.open(session_id)
            assert (await turn(world, Caller("ann", session_id, request_id="r"), 1)).replay is None


async def test_repeats_that_outlive_their_answers_are_not_applied() -> None:
    """More turns than answers are kept: each repeat is answered or told that its answer is gone, and the session does
    not move, even when the expected position is long past."""
    async with running_world() as world:
        await world.open()
        callers = [replace(ANN, request_id=f"r{number}") for number in range(9)]
        await asyncio.gather(*(turn(world, caller, 1) for caller in callers))
        assert await position(world) == 9
        for number, caller in enumerate(callers):
            if number < 5:
                with pytest.raises(AnswerGone) as refused:
                    await turn(world, replace(caller, expected_position=number), 1)
                assert refused.value.details == {"position": "9"}
            else:
                assert (await turn(world, replace(caller, expected_position=number), 1)).replay
        assert await position(world) == 9


async def test_the_oldest_ids_are_forgotten() -> None:
    """An id beyond those that are remembered is a new request, and expected_position guards it."""
    async with running_world(Plan(retention=replace(Plan().retention, max_request_ids=20))) as world:
        await world.open()
        for number in range(21):
            await turn(world, replace(ANN, request_id=f"r{number}", expected_position=number), 1)
        with pytest.raises(AnswerGone):
            await turn(world, replace(ANN, request_id="r1", expected_position=1), 1)
        with pytest.raises(PositionMismatch):
            await turn(world, replace(ANN, request_id="r0", expected_position=0), 1)
        assert await position(world) == 21


async def test_an_answer_that_is_kept_for_longer_than_ids_is_given() -> None:
    """As long as the answer is there, the request is not applied again, however few ids are remembered."""
    retention = replace(Plan().retention, max_request_ids=2, max_answers=4)
    async with running_world(Plan(retention=retention)) as world:
        await world.open()
        for number in range(6):
            await turn(world, replace(ANN, request_id=f"r{number}"), 1)
        for number in range(2, 6):
            assert (await turn(world, replace(ANN, request_id=f"r{number}"), 1)).replay
        assert await position(world) == 6


async def test_a_text_of_more_tokens_than_characters_has_its_answer_kept() -> None:
    """The record of a rating is as long as its tokens, of which one character may have four."""
    async with running_world(Plan(model=ToyModel(256), tokenizer=byte_tokenizer())) as world:
        await world.open()
        request = ScoringRequest("\N{GRINNING FACE}" * 120)
        answers = []
        for _ in range(2):
            pieces = [piece async for piece in world.sessions.score(replace(ANN, request_id="r"), request)]
            assert pieces[-1].totals is not None
            answers.append([token for piece in pieces for token in piece.tokens])
        assert answers[0] == answers[1]
        assert len(answers[0]) == await position(world) == 480


async def test_an_answer_too_large_to_keep_is_gone_and_not_applied_again() -> None:
    """The repeat is told so, and a small answer beside it is kept."""
    async with running_world(Plan(retention=replace(Plan().retention, max_answer_bytes=1000))) as world:
        await world.open()
        await turn(world, replace(ANN, request_id="large"), 1, size=100)
        await turn(world, replace(ANN, request_id="small"), 1)
        with pytest.raises(AnswerGone, match="large"):
            await turn(world, replace(ANN, request_id="large"), 1)
        assert (await turn(world, replace(ANN, request_id="small"), 1)).replay
        assert await position(world) == 2


@pytest.mark.parametrize("expected", [0, 2, 4, -1, 2**62])
async def test_another_position_than_expected_changes_nothing(expected: int) -> None:
    """The turn gets PositionMismatch with the current position; the right position passes."""
    async with running_world() as world:
        await world.open()
        await turn(world, ANN, 1, 2, 3)
        held = await world.hold()
        with pytest.raises(PositionMismatch) as refused:
            await turn(world, replace(ANN, expected_position=expected, request_id="r"), 1)
        assert refused.value.details == {"position": "3"}
        assert await world.hold() == held
        await turn(world, replace(ANN, expected_position=3, request_id="r"), 1)
        assert await position(world) == 4
