"""A call on a session that is repeated under its request id is done once."""

import asyncio
import contextlib
from collections.abc import Sequence

import pytest
from tests.fakes import Fault, FaultyStore, same_snapshot
from tests.server.sessions.session_calls import NOW, faulty_plan, fed, feed, gated_creations
from tests.worlds import LIFETIMES, ROOMY, Plan, running_world

from carousel.errors import InvalidRequest, Overloaded, SessionDeleted, StateRefused, StoreUnavailable
from carousel.sessions.operations import Point
from carousel.sessions.requests import Caller, PredictionRequest
from carousel.state.memory import MemoryStore
from carousel.state.store import Birth, Deed, EndReason, Row


async def test_a_repeated_creation_gets_the_session_as_it_stands() -> None:
    """Its id may be chosen or made; after turns the repeat gets the moved session, and after the end it gets the
    ending."""
    async with running_world() as world:
        for session_id, request_id in (("s", "r1"), ("", "r2")):
            start = world.engine.start_snapshot
            row = await world.operations.create("ann", session_id, start, request_id)
            assert await world.operations.create("ann", session_id, start, request_id) == row
            await feed(world, 1, 2, session_id=row.id)
            again = await world.operations.create("ann", session_id, start, request_id)
            assert (again.id, again.position) == (row.id, 2)
            await world.operations.delete("ann", row.id)
            with pytest.raises(SessionDeleted):
                await world.operations.create("ann", session_id, start, request_id)
        assert world.value("sessions_created_total") == 2


@pytest.mark.parametrize("other_id", ["this", "another"])
async def test_an_end_that_comes_meanwhile(other_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two attempts of one request may run at once: the later one looks for the record before the earlier one writes it,
    and for the session afterwards. That is a success; an end by another request is an error."""
    async with running_world() as world:
        await world.open("s")
        recall = MemoryStore.recall

        async def recall_early(store: MemoryStore, owner: str, request_id: str) -> Deed | None:
            found = await recall(store, owner, request_id)
            monkeypatch.setattr(MemoryStore, "recall", recall)
            await world.operations.delete(owner, "s", other_id)
            return found

        monkeypatch.setattr(MemoryStore, "recall", recall_early)
        with contextlib.nullcontext() if other_id == "this" else pytest.raises(SessionDeleted):
            await world.operations.delete("ann", "s", "this")


async def test_an_end_that_comes_after_the_look_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end is another request's, even where the store records a request before it is done, as Redis does."""
    async with running_world() as world:
        await world.open("s")
        end = MemoryStore.end

        async def record_and_end_too_late(store: MemoryStore, row: Row, reason: EndReason, deed: Deed | None) -> bool:
            monkeypatch.setattr(MemoryStore, "end", end)
            store._record(deed, world.clock())
            await world.operations.delete("ann", "s", "another")
            return False

        monkeypatch.setattr(MemoryStore, "end", record_and_end_too_late)
        with pytest.raises(SessionDeleted):
            await world.operations.delete("ann", "s", "this")


async def test_a_request_id_is_for_one_request() -> None:
    """An id that is used for something else is refused by name and does nothing; for another owner it is another id."""
    async with running_world() as world:
        await world.open("t")
        start = world.engine.start_snapshot
        await world.operations.create("ann", "s", start, "r")
        blob, _ = await world.operations.export("ann", "s", NOW, 60)
        others = [
            world.operations.create("ann", "x", start, "r"),
            world.operations.create("ann", "", start, "r"),
            world.operations.fork("ann", "s", NOW, ("x",), 0, "r"),
            world.operations.import_state("ann", blob, "x", "r"),
            world.operations.delete("ann", "s", "r"),
        ]
        for other in others:
            with pytest.raises(InvalidRequest, match="^request_id: "):
                await other
        assert [row.id for row in await world.operations.list_owned("ann", (0.0, ""), 9)] == ["s", "t"]
        await world.operations.create("bob", "x", start, "r")


@pytest.mark.parametrize("request_id", ["a b", "x" * 65, "a/b", "a\n"])
async def test_a_malformed_request_id_is_refused(request_id: str) -> None:
    """Every call that takes a request id refuses it before anything is done."""
    async with running_world() as world:
        await world.open()
        blob, _ = await world.operations.export("ann", "s", NOW, 60)
        calls = [
            world.operations.create("ann", "x", world.engine.start_snapshot, request_id),
            world.operations.fork("ann", "s", NOW, ("x",), 0, request_id),
            world.operations.import_state("ann", blob, "x", request_id),
            world.operations.rewind("ann", "s", NOW, None, request_id),
            world.operations.mark("ann", "s", "c", request_id),
            world.operations.delete("ann", "s", request_id),
        ]
        for call in calls:
            with pytest.raises(InvalidRequest, match="^request_id: "):
                await call
        assert (await world.hold()).row.revision == 0


async def test_a_repeated_deletion_ends_nothing_that_was_made_since() -> None:
    """The first is done; a later session under the id stays; without a request id, the second gets the ending."""
    async with running_world() as world:
        await world.open()
        await world.operations.delete("ann", "s", "r")
        await world.operations.delete("ann", "s", "r")
        with pytest.raises(SessionDeleted):
            await world.operations.delete("ann", "s")
        await world.open()
        await world.operations.delete("ann", "s", "r")
        assert (await world.operations.get("ann", "s")).position == 0


async def test_a_repeated_fork_makes_no_more() -> None:
    """The repeat gets the same sessions as they stand now, even when the original has moved or is gone."""
    async with running_world() as world:
        await world.open()
        await feed(world, 1)
        rows = await world.operations.fork("ann", "s", NOW, (), 3, "r")
        await feed(world, 2)
        await feed(world, 3, 4, session_id=rows[1].id)
        again = await world.operations.fork("ann", "s", NOW, (), 3, "r")
        assert [(row.id, row.position) for row in again] == list(zip([row.id for row in rows], (1, 3, 1), strict=True))
        await world.operations.delete("ann", "s")
        assert len(await world.operations.fork("ann", "s", NOW, (), 3, "r")) == 3
        assert await world.store.num_live() == 3


async def test_a_repeated_import_uses_its_state_once() -> None:
    """Where a state is good once, the repeat still gets the session, and another request is refused."""
    async with running_world(Plan(replays_seals=False)) as world:
        await world.open()
        blob, _ = await world.operations.export("ann", "s", NOW, 60)
        row = await world.operations.import_state("ann", blob, "", "r")
        assert await world.operations.import_state("ann", blob, "", "r") == row
        with pytest.raises(StateRefused):
            await world.operations.import_state("ann", blob, "", "q")


async def test_an_import_can_be_repeated_until_it_is_done() -> None:
    """Where a state is good once, the repeat of an import that failed or still runs gets the session. Another request,
    and the same id for another session, are refused all the while and afterwards."""
    async with gated_creations() as (world, store, writing, may_write):
        blob, _ = await world.operations.export("ann", "s", NOW, 60)
        store.faults[Fault.BEFORE_WRITE] = 1
        with pytest.raises(StoreUnavailable):
            await world.operations.import_state("ann", blob, "", "r")
        may_write.clear()
        writing.clear()
        first, second = (asyncio.ensure_future(world.operations.import_state("ann", blob, "", "r")) for _ in range(2))
        await writing.wait()
        for session_id, request_id in (("t", "r"), ("", "q"), ("", "")):
            with pytest.raises(StateRefused):
                await world.operations.import_state("ann", blob, session_id, request_id)
        may_write.set()
        assert await first == await second == await world.operations.import_state("ann", blob, "", "r")
        await world.operations.delete("ann", (await first).id)
        for request_id in ("q", ""):
            with pytest.raises(StateRefused):
                await world.operations.import_state("ann", blob, "", request_id)
        assert await world.store.num_live() == 1


async def test_a_repeat_that_waited_for_room_is_a_repeat() -> None:
    """Two attempts of one request find the store full, and what is due makes room: both get the session that one
    made."""

    class FullTwice(FaultyStore):
        num_full = 2

        async def create(self, births: Sequence[Birth], deed: Deed | None = None) -> list[Row]:
            if deed is not None and self.num_full:
                self.num_full -= 1
                raise Overloaded("full", limit="max_sessions", retry_seconds=1.0)
            return await super().create(births, deed)

        async def sweep(self, count: int) -> int:
            await asyncio.sleep(0)
            return 1

    async with running_world(Plan(store=lambda clock: FullTwice(MemoryStore(ROOMY, LIFETIMES, clock=clock)))) as world:
        calls = [world.operations.create("ann", "s", world.engine.start_snapshot, "r") for _ in range(2)]
        one, other = await asyncio.gather(*calls)
        assert one == other


async def test_a_repeated_rewind_or_checkpoint_moves_nothing() -> None:
    """The repeat gets the first answer, although other turns came since and whatever it expects; its id is taken."""
    async with running_world() as world:
        await world.open()
        await feed(world, 1)
        await feed(world, 2)
        assert (await world.operations.rewind("ann", "s", Point(1), 2, "back")).position == 1
        assert (await world.operations.mark("ann", "s", "c", "mark")).position == 1
        await feed(world, 3)
        assert (await world.operations.rewind("ann", "s", Point(1), 2, "back")).position == 1
        assert (await world.operations.mark("ann", "s", "c", "mark")).position == 1
        assert same_snapshot(await world.snapshot(), fed(world, 1, 3))
        assert (await world.operations.history("ann", "s")).marks == {"c": 1}
        for other in (
            world.operations.rewind("ann", "s", Point(0), 2, "back"),
            world.operations.mark("ann", "s", "d", "mark"),
            world.operations.mark("ann", "s", "c", "back"),
        ):
            with pytest.raises(InvalidRequest, match="^request_id: "):
                await other
        with pytest.raises(InvalidRequest, match="^request_id: "):
            await world.sessions.predict(Caller("ann", "s", request_id="back"), PredictionRequest((1,)))
        await world.sessions.predict(Caller("ann", "s", request_id="turn"), PredictionRequest((1,)))
        with pytest.raises(InvalidRequest, match="^request_id: "):
            await world.operations.mark("ann", "s", "c", "turn")


@pytest.mark.parametrize("request_id", ["", "r"])
@pytest.mark.parametrize("num_steps", range(12))
async def test_a_cancelled_fork_makes_all_or_none(request_id: str, num_steps: int) -> None:
    """Without an id none stays, since no caller could find the copies. With one, all stay or none, and the repeat gets
    three."""

    async def pause(name: str) -> None:
        for _ in range(2):
            await asyncio.sleep(0)

    plan = Plan(store=lambda clock: FaultyStore(MemoryStore(ROOMY, LIFETIMES, clock=clock), pause))
    async with running_world(plan) as world:
        await world.open()
        forking = asyncio.ensure_future(world.operations.fork("ann", "s", NOW, (), 3, request_id))
        for _ in range(num_steps):
            await asyncio.sleep(0)
        is_done = forking.done()
        forking.cancel()
        with contextlib.nullcontext() if is_done else pytest.raises(asyncio.CancelledError):
            await forking
        num_copies = await world.store.num_live() - 1
        assert num_copies in ((3,) if is_done else (0, 3) if request_id else (0,))
        await world.operations.fork("ann", "s", NOW, (), 3, request_id)
        assert await world.store.num_live() - 1 == (3 if request_id else num_copies + 3)


async def test_a_creation_whose_answer_was_lost_is_not_made_twice() -> None:
    """The store made it and its answer is lost: the call is UNAVAILABLE, and the repeat finds the session."""
    async with running_world(faulty_plan()) as world:
        assert isinstance(world.store, FaultyStore)
        for session_id in ("chosen", ""):
            world.store.faults[Fault.AFTER_WRITE] = 1
            with pytest.raises(StoreUnavailable):
                await world.operations.create("ann", session_id, world.engine.start_snapshot, f"r{session_id}")
            await world.operations.create("ann", session_id, world.engine.start_snapshot, f"r{session_id}")
        assert await world.store.num_live() == 2
