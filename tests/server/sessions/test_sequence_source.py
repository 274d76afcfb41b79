"""A sequence is a turn's hold on its sequence: for the owner, in order, saved once with its answer, given back whatever
happens."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.fakes import Fault, FaultyStore, ToyModel, byte_tokenizer, same_snapshot
from tests.worlds import LIFETIMES, ROOMY, Plan, World, running_world

from carousel.errors import (
    AnswerGone,
    InvalidRequest,
    ModelFailed,
    PositionMismatch,
    SessionDeleted,
    SessionExpired,
    SessionMoved,
    SessionNotFound,
    StateRefused,
    StoreUnavailable,
)
from carousel.sessions.operations import Point
from carousel.sessions.requests import (
    Caller,
    GenerationRequest,
    Prediction,
    PredictionRequest,
    ScoringRequest,
    Standing,
)
from carousel.sessions.sequence_source import Outcome, TurnSequence
from carousel.state.memory import MemoryStore
from carousel.turns import Candidate

ANN = Caller("ann", "s")
ASKED = PredictionRequest("asked")


def faulty_plan(pause: Callable[[str], Awaitable[None]] | None = None, **changes: Any) -> Plan:
    """A world whose store fails and waits as told."""
    return Plan(store=lambda clock: FaultyStore(MemoryStore(ROOMY, LIFETIMES, clock=clock), pause), **changes)


def faults_of(world: World) -> FaultyStore:
    assert isinstance(world.store, FaultyStore)
    return world.store


def outcome(world: World, sequence: TurnSequence, *ids: int, num_candidates: int = 1) -> Outcome:
    """What a turn that fed the ids leads to."""
    after = world.oracle.feed(sequence.start, ids)
    answer = Prediction((Candidate(1, -0.5),) * num_candidates, (), Standing(after.position, 0))
    return Outcome(after, ids, answer)


async def turn(
    world: World, caller: Caller, *ids: int, request: PredictionRequest = ASKED, size: int = 1
) -> TurnSequence:
    """Take, feed and save unless it was done before."""
    async with world.sequences.hold(caller, request) as sequence:
        if sequence.replay is None:
            await sequence.save(outcome(world, sequence, *ids, num_candidates=size))
    return sequence


async def position(world: World) -> int:
    return (await world.operations.get("ann", "s")).position


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_turn_without_a_session_gets_the_start_and_keeps_nothing() -> None:
    """Its sequence begins at the start snapshot and saving is without effect."""
    async with running_world() as world:
        async with world.sequences.hold(Caller("ann"), ASKED) as sequence:
            assert sequence.start is world.engine.start_snapshot
            assert not sequence.is_kept
            assert (await sequence.save(outcome(world, sequence, 1, 2))) == Standing(2, 0)
        assert await world.store.num_live() == 0


async def test_a_turn_gets_its_session_and_saves_it() -> None:
    """What is saved is the next turn's start, and the standing says where that is."""
    async with running_world() as world:
        await world.open()
        async with world.sequences.hold(ANN, ASKED) as sequence:
            assert (sequence.is_kept, sequence.replay, sequence.standing) == (True, None, Standing(0, 0))
            done = outcome(world, sequence, 1)
            assert await sequence.save(done) == Standing(1, 0)
        async with world.sequences.hold(ANN, ASKED) as sequence:
            assert same_snapshot(sequence.start, done.snapshot)


async def test_a_turn_is_saved_once() -> None:
    """A second save on one sequence is refused, and the first one holds."""
    async with running_world() as world:
        await world.open()
        async with world.sequences.hold(ANN, ASKED) as sequence:
            await sequence.save(outcome(world, sequence, 1))
            with pytest.raises(SessionMoved):
                await sequence.save(outcome(world, sequence, 1, 2))
        assert await position(world) == 1


async def test_the_bytes_of_an_unfinished_character_are_kept() -> None:
    """The session's tail grows with the turns until the character is whole."""
    async with running_world(Plan(model=ToyModel(256), tokenizer=byte_tokenizer())) as world:
        await world.open()
        content = "日".encode()
        for number, tail in ((0, content[:1]), (1, content[:2]), (2, b"")):
            await turn(world, ANN, content[number])
            assert (await world.snapshot()).tail == tail


@pytest.mark.parametrize("caller", [Caller("ann", "nothing"), Caller("bob", "s"), Caller("ann", "no id\n")])
async def test_an_unknown_or_foreign_session_gives_no_seat(caller: Caller) -> None:
    """All are SessionNotFound, also while the owner's turn holds the session: a stranger does not wait."""
    async with running_world(Plan(max_turns_per_session=0)) as world:
        await world.open()
        async with world.sequences.hold(ANN, ASKED):
            with pytest.raises(SessionNotFound):
                async with world.sequences.hold(caller, ASKED):
                    pytest.fail("no sequence for strangers")


async def test_a_session_that_ends_while_a_turn_waits_is_gone_for_it() -> None:
    """The waiting turn gets the error that a new one would get."""
    for end, error in (("delete", SessionDeleted), ("expire", SessionExpired)):
        async with running_world() as world:
            await world.open()
            async with world.sequences.hold(ANN, ASKED):
                waiting = asyncio.create_task(turn(world, ANN, 1))
                await settle()
                if end == "delete":
                    await world.operations.delete("ann", "s")
                else:
                    world.clock.advance(1000)
            with pytest.raises(error):
                await waiting


async def test_a_session_that_is_deleted_during_a_turn_cannot_be_saved() -> None:
    """The turn is told how it ended, and nothing comes back to life."""
    async with running_world() as world:
        await world.open()
        async with world.sequences.hold(ANN, ASKED) as sequence:
            await world.operations.delete("ann", "s")
            with pytest.raises(SessionDeleted):
                await sequence.save(outcome(world, sequence, 1))
        assert await world.store.num_live() == 0


@pytest.mark.parametrize("seconds", [100, 1000])
async def test_the_clock_ends_no_session_in_use(seconds: int) -> None:
    """Neither its idle time nor its lifetime, swept or asked for meanwhile: the turn is acknowledged. Then a lifetime
    that has passed ends it, and an idle time begins anew."""
    async with running_world() as world:
        await world.open()
        async with world.sequences.hold(ANN, ASKED) as sequence:
            world.clock.advance(seconds)
            await world.operations.expire()
            assert (await world.operations.get("ann", "s")).position == 0
            assert (await sequence.save(outcome(world, sequence, 1))).position == 1
            await world.operations.expire()
        if seconds == 1000:
            with pytest.raises(SessionExpired):
                await world.operations.get("ann", "s")
        else:
            world.clock.advance(99.5)
            assert await position(world) == 1


async def test_a_session_whose_turns_are_all_cancelled_is_idle() -> None:
    """A cancelled turn changes nothing, and so not when the session expires either."""
    async with running_world() as world:
        session = await world.open()
        for _ in range(4):
            begun = asyncio.Event()

            async def hold(begun: asyncio.Event) -> None:
                async with world.sequences.hold(ANN, ASKED):
                    begun.set()
                    await asyncio.Event().wait()

            task = asyncio.create_task(hold(begun))
            await begun.wait()
            world.clock.advance(24)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await world.operations.get("ann", "s") == session
        world.clock.advance(4)
        with pytest.raises(SessionExpired):
            await world.operations.get("ann", "s")


async def test_a_session_made_anew_is_not_touched_by_an_old_turn() -> None:
    """A turn that began on the session of that name before it was deleted and made again cannot be saved."""
    async with running_world() as world:
        await world.open()
        async with world.sequences.hold(ANN, ASKED) as sequence:
            await world.operations.delete("ann", "s")
            await world.open()
            with pytest.raises(SessionMoved):
                await sequence.save(outcome(world, sequence, 1))
        assert await position(world) == 0


async def test_a_turn_that_fails_gives_its_seat_back() -> None:
    """After an exception inside, the next turn gets the session as it was."""
    async with running_world() as world:
        session = await world.open()
        for _ in range(3):
            with pytest.raises(ValueError, match="oops"):
                async with world.sequences.hold(ANN, ASKED):
                    raise ValueError("oops")
        assert await world.operations.get("ann", "s") == session


@pytest.mark.parametrize(
    ("caller", "field"),
    [
        (Caller("ann", "s", state=b"x"), "state"),
        (Caller("ann", "s", request_id="x" * 65), "request_id"),
        (Caller("ann", "s", request_id="a/b"), "request_id"),
        (Caller("ann", "s", request_id="a\n"), "request_id"),
        (Caller("ann", "", request_id="a"), "request_id"),
        (Caller("ann", "", state=b"x", request_id="a"), "request_id"),
        (Caller("ann", "", expected_position=0), "expected_position"),
    ],
)
async def test_a_caller_that_contradicts_itself_is_told(caller: Caller, field: str) -> None:
    """A state beside a session, a malformed request id, a request id that nothing could remember, a position of what
    stands nowhere: alike for all kinds of turns, sessionless streams too."""
    async with running_world() as world:
        await world.open()
        for call in (
            world.sessions.predict(caller, PredictionRequest((1,))),
            world.sessions.predict_unkept(None, PredictionRequest((1,)), caller),
            anext(world.sessions.generate(caller, GenerationRequest((1,)))),
            anext(world.sessions.score(caller, ScoringRequest((1,)))),
        ):
            with pytest.raises(InvalidRequest) as refused:
                await call
            assert refused.value.field == field
        assert await position(world) == 0


# Exactly once


async def test_a_repeat_is_answered_from_the_record() -> None:
    """The same answer, marked as a repeat; the session does not move."""
    async with running_world() as world:
        await world.open()
        caller = replace(ANN, request_id="r")
        await turn(world, caller, 1, 2)
        again = await turn(world, caller, 1, 2)
        assert again.replay == Prediction((Candidate(1, -0.5),), (), Standing(2, 0))
        assert again.standing == Standing(2, 0, is_replay=True)
        assert await position(world) == 2


async def test_a_repeat_stands_where_its_own_turn_ended() -> None:
    """After other turns, and after a rewind, a late repeat still says its own position, not the session's."""
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
    """It does not begin before the first has ended, and then gets the answer."""
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
    """Nothing was applied, so nothing was recorded: the one that waited runs."""
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
    """The record is not given to a request that it does not answer, and nothing is applied."""
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
    """More turns than answers are kept: each repeat is answered or told that its answer is gone, and the session stands
    where the firsts left it, also when the position that the repeat expects is long passed."""
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
    """One beyond those that are remembered is a new request, and expected_position is what guards it."""
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
    """As long as the answer is there the request is not applied again, however few ids are remembered."""
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
    """The repeat is told so; a small answer beside it is kept."""
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
    """PositionMismatch with the current one; the right one passes."""
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


# Faults of the store


async def test_a_store_that_fails_before_the_write_leaves_everything() -> None:
    """The turn is UNAVAILABLE and not applied; its repeat is."""
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
    """The turn was written and its caller does not know; the repeat finds the record."""
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
    """Without a request id the repeat is refused with the position that says that it was applied."""
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
    """Nobody gets a sequence, the line is free again, and service resumes with the store."""
    async with running_world(faulty_plan(max_turns_per_session=0)) as world:
        await world.open()
        faults_of(world).faults[fault] = 3
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await turn(world, ANN, 1)
        await turn(world, ANN, 1)
        assert await position(world) == 1


# Cancellation


async def test_a_commit_is_never_cancelled_and_the_line_waits_for_it() -> None:
    """However often its caller is cancelled, a write runs to its end before anybody else gets the session."""
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
    """No error is left behind unlooked at, and the session is where the store has it."""
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
    """Cancelled after each number of steps of the event loop, with a store that takes several for everything: the line
    is free, the repeat ends the matter, and the session has moved once."""

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


# Sealed states


async def test_a_sealed_state_is_a_sequence_that_its_caller_keeps() -> None:
    """The next state comes back with the position; no session is made; nothing can be lost here."""
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
    """Anybody else, another position and a later day are refused."""
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
    """Allowed, it gives the same again; refused, the second use is told so, but one that was refused is no use."""
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
    """A turn that was given up, that broke, or of which something was told: where a state is good once, it is used."""
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
    """After its first piece, where a state is good once."""
    async with running_world(Plan(replays_seals=False)) as world:
        caller = Caller("ann", state=world.seal(world.oracle.start()))
        pieces = world.sessions.generate(caller, GenerationRequest((1,), max_tokens=1000))
        await anext(pieces)
        await pieces.aclose()
        with pytest.raises(StateRefused, match="used before"):
            await turn(world, caller, 1)


async def test_a_state_whose_next_one_was_made_stays_used() -> None:
    """Also when its caller went away before the answer was sent."""
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
