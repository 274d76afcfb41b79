"""A turn has its sequence in order, for its owner alone, and saves it once or not at all."""

import asyncio

import pytest
from tests.fakes import ToyModel, byte_tokenizer, same_snapshot
from tests.server.sessions.sequence_turns import ANN, ASKED, outcome, position, settle, turn
from tests.worlds import Plan, running_world

from carousel.errors import InvalidRequest, SessionDeleted, SessionExpired, SessionMoved, SessionNotFound
from carousel.sessions.requests import Caller, GenerationRequest, PredictionRequest, ScoringRequest, Standing


async def test_a_turn_without_a_session_gets_the_start_and_keeps_nothing() -> None:
    """Its sequence begins at the start snapshot, and a save has no effect."""
    async with running_world() as world:
        async with world.sequences.hold(Caller("ann"), ASKED) as sequence:
            assert sequence.start is world.engine.start_snapshot
            assert not sequence.is_kept
            assert (await sequence.save(outcome(world, sequence, 1, 2))) == Standing(2, 0)
        assert await world.store.num_live() == 0


async def test_a_turn_gets_its_session_and_saves_it() -> None:
    """The saved snapshot is the next turn's start, and the standing says where that is."""
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
    """All are SessionNotFound, even while the owner's turn holds the session: a stranger does not wait."""
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
    """The turn gets the ending, and the session stays deleted."""
    async with running_world() as world:
        await world.open()
        async with world.sequences.hold(ANN, ASKED) as sequence:
            await world.operations.delete("ann", "s")
            with pytest.raises(SessionDeleted):
                await sequence.save(outcome(world, sequence, 1))
        assert await world.store.num_live() == 0


@pytest.mark.parametrize("seconds", [100, 1000])
async def test_the_clock_ends_no_session_in_use(seconds: int) -> None:
    """Neither its idle time nor its lifetime ends it during a turn, in a sweep or a call. Then a passed lifetime ends
    it, and the idle time begins anew."""
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
    """A cancelled turn changes nothing, so it does not move the session's end either."""
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
    """A turn that began before the session was deleted and made again cannot be saved."""
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
    """The contradictions are a state beside a session, a malformed request id, one that nothing could remember, and a
    position of no session. All kinds of turns refuse them, sessionless streams too."""
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
