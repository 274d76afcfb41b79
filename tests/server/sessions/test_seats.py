"""A seat is a turn's hold on its sequence: for the owner, in order, saved once, given back whatever happens."""

import asyncio

import pytest
from tests.fakes import ToyModel, byte_tokenizer
from tests.worlds import Plan, running_world

from carousel.engine.scheduler import Bounds
from carousel.errors import Overloaded, SessionExpired, SessionNotFound, ShuttingDown
from carousel.sessions.requests import Caller
from carousel.turns import Generate, Sampling, Turn


async def test_a_turn_without_a_session_gets_the_start_and_keeps_nothing() -> None:
    """Its seat begins at the start snapshot and saving is without effect."""
    async with running_world() as world:
        async with world.seats.take(Caller("ann")) as seat:
            assert seat.start is world.engine.start_snapshot
            assert not seat.is_kept
            seat.save(world.oracle.feed(seat.start, (1,)), (1,))
        assert len(world.table) == 0


async def test_a_turn_gets_its_session_and_saves_it() -> None:
    """What is saved is the next turn's start."""
    async with running_world() as world:
        world.sessions.create("ann", "s")
        async with world.seats.take(Caller("ann", "s")) as seat:
            assert seat.is_kept
            after = world.oracle.feed(seat.start, (1,))
            seat.save(after, (1,))
        async with world.seats.take(Caller("ann", "s")) as seat:
            assert seat.start == after


async def test_the_bytes_of_an_unfinished_character_are_kept() -> None:
    """The session's tail grows with the turns until the character is whole."""
    async with running_world(Plan(model=ToyModel(256), tokenizer=byte_tokenizer())) as world:
        world.sessions.create("", "s")
        content = "日".encode()
        for number, tail in ((0, content[:1]), (1, content[:2]), (2, b"")):
            async with world.seats.take(Caller("", "s")) as seat:
                seat.save(seat.start, content[number : number + 1])
            assert world.sessions.get("", "s").snapshot.tail == tail


@pytest.mark.parametrize("caller", [Caller("ann", "nothing"), Caller("bob", "s")])
async def test_an_unknown_or_foreign_session_gives_no_seat(caller: Caller) -> None:
    """Both are SessionNotFound, also while the owner's turn holds the session: a stranger does not wait."""
    async with running_world(Plan(max_turns_per_session=0)) as world:
        world.sessions.create("ann", "s")
        async with world.seats.take(Caller("ann", "s")):
            with pytest.raises(SessionNotFound):
                async with world.seats.take(caller):
                    pytest.fail("no seat for strangers")


async def test_a_session_that_ends_while_a_turn_waits_is_gone_for_it() -> None:
    """The waiting turn gets the error that a new one would get."""
    for end, error in (("delete", SessionNotFound), ("expire", SessionExpired)):
        async with running_world() as world:
            world.sessions.create("ann", "s")

            async def turn() -> None:
                async with world.seats.take(Caller("ann", "s")):
                    pytest.fail("the session is gone")

            async with world.seats.take(Caller("ann", "s")):
                waiting = asyncio.create_task(turn())
                await asyncio.sleep(0)
                if end == "delete":
                    world.sessions.delete("ann", "s")
                else:
                    world.clock.advance(1000)
            with pytest.raises(error):
                await waiting


@pytest.mark.parametrize("end", ["delete", "expire"])
async def test_a_session_that_ends_during_a_turn_cannot_be_saved(end: str) -> None:
    """The turn is told, and nothing comes back to life."""
    async with running_world() as world:
        world.sessions.create("ann", "s")
        async with world.seats.take(Caller("ann", "s")) as seat:
            if end == "delete":
                world.sessions.delete("ann", "s")
            else:
                world.clock.advance(1000)
            with pytest.raises(SessionExpired):
                seat.save(seat.start, ())
        assert len(world.table) == 0


async def test_overload_and_shutdown_are_told_before_anything_is_looked_at() -> None:
    """With a full queue or a closed engine even an unknown session gets that answer."""
    async with running_world(Plan(bounds=Bounds(max_lanes=1, max_queued_turns=1))) as world:
        endless = Turn(world.engine.start_snapshot, (1,), Generate(Sampling(seed=0), 10_000_000))
        ticket = world.engine.submit(endless)
        with pytest.raises(Overloaded):
            async with world.seats.take(Caller("ann", "nothing")):
                pytest.fail("the queue is full")
        ticket.cancel()
        await world.engine.drain(5)
        with pytest.raises(ShuttingDown):
            async with world.seats.take(Caller("ann", "nothing")):
                pytest.fail("it is closed")


async def test_a_turn_that_fails_gives_its_seat_back() -> None:
    """After an exception inside, the next turn gets the session as it was."""
    async with running_world() as world:
        session = world.sessions.create("ann", "s")
        for _ in range(3):
            with pytest.raises(ValueError, match="oops"):
                async with world.seats.take(Caller("ann", "s")):
                    raise ValueError("oops")
        assert world.sessions.get("ann", "s") == session
