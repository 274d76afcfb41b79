"""Where a held session's turns stop being plain, and what is let go then: pins, slots, turns that are not written."""

from pathlib import Path
from typing import Any

import pytest
from tests.server.sessions.test_logged_holds import logging
from tests.server.sessions.test_residents import Stream, holding

from carousel.errors import Overloaded, SessionMoved, ShuttingDown
from carousel.sessions import residents
from carousel.sessions.resident import Plain, Resident
from carousel.state.store import Ending, EndReason, Row


def resident_of(stream: Stream) -> Resident:
    assert stream.talk._resident is not None
    return stream.talk._resident


async def test_a_turn_that_is_refused_leaves_nothing_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session expires in time, as one that no turn holds."""
    async with holding() as (world, (stream,)):

        def refuse(*_: Any) -> None:
            raise Overloaded("turns are waiting", limit="max_queued_turns_per_owner", retry_seconds=1.0)

        with monkeypatch.context() as patch:
            patch.setattr(world.engine, "advance", refuse)
            with pytest.raises(Overloaded):
                await stream.talk.answer_plain(Plain(3, 2))
        assert stream.holds
        world.clock.advance(1000)
        assert isinstance(await world.store.read("ann", "0"), Ending)


async def test_nothing_is_begun_when_the_engine_closes() -> None:
    """It is refused where all others are."""
    async with holding() as (world, (stream,)):
        held = world.residents
        assert held.may_begin(resident_of(stream), Plain(3, 2))
        await world.engine.drain(1)
        assert not held.may_begin(resident_of(stream), Plain(3, 2))
        with pytest.raises(ShuttingDown):
            await stream.say(3)


async def test_no_more_turns_are_unwritten_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then one goes the ordinary way, which writes them."""
    monkeypatch.setattr(residents, "_MAX_UNWRITTEN", 3)
    async with holding() as (world, (stream,)):
        written = list[int]()
        for number in range(12):
            monkeypatch.setattr(world.residents, "_wanted", {})
            assert await stream.say(number) == number + 3
            written.append((await world.hold("0")).row.position)
        assert all(number + 3 - position <= 3 for number, position in enumerate(written))
        assert len(set(written)) > 2


async def test_the_end_of_a_namesake_ends_nothing() -> None:
    """What is told late is of a session before this one."""
    async with holding() as (world, (stream,)):
        row = resident_of(stream).held.row
        for incarnation, holds in ((row.incarnation + 1, True), (row.incarnation, False)):
            world.residents.forget(Ending(row.id, row.owner, EndReason.DELETED, 0.0, incarnation))
            assert stream.holds is holds


async def test_a_session_of_which_nothing_can_be_noted_is_not_held_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has ended, or others have moved it: no further turn may go on from there."""
    async with logging(tmp_path) as it:
        stream = await it.stream()

        def refuse(*_: Any) -> Row:
            raise SessionMoved("session s was changed while the turn ran")

        with monkeypatch.context() as patch:
            patch.setattr(it.store, "note", refuse)
            await it.world.residents.settle()
        assert not stream.holds
        assert len(it.world.residents) == 0
        await it.world.residents.tidy()
        assert it.world.engine.columns.num_used == 0
