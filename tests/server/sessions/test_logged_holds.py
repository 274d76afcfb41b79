"""Held sessions of a store that has a log: whenever the server dies, the next one finds every turn that was answered,
once, and all that it left, whatever was written of it meanwhile."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.bounds import make_retention
from tests.fakes import GatedModel, ToyModel, byte_tokenizer, same_snapshot
from tests.server.sessions.crashes import after_crash, copy_file, held_after_crash
from tests.server.sessions.test_residents import Stream
from tests.worlds import LIFETIMES, Clock, Plan, World, running_world

from carousel.errors import SessionDeleted, StoreInvalid, StoreUnavailable
from carousel.sessions.ledger import Ledger
from carousel.sessions.operations import Point
from carousel.sessions.recovery import recover
from carousel.sessions.resident import Plain
from carousel.state import write_ahead
from carousel.state.sqlite_store import SqliteStore
from carousel.state.store import Capacity, Change, EndReason, Held, Row
from carousel.state.write_ahead import WriteAhead
from carousel.state.write_behind import WriteBehind

ROOMY = Capacity(1000, 2**30, evicts=True)
RETENTION = make_retention(max_turns=3, max_answers=2, max_answer_bytes=65_536, max_request_ids=12)
NAMES = ("a", "b", "c")


class GatedLog(SqliteStore):
    """Entries wait for a gate before they are appended, or after, or fail."""

    def __init__(self, path: Path, clock: Clock) -> None:
        super().__init__(path, ROOMY, LIFETIMES, clock=clock)
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()
        self.is_broken = False

    async def append(self, entry: bytes, then: Callable[[int], None]) -> None:
        self.reached.set()
        await self.gate.wait()
        if self.is_broken:
            raise StoreUnavailable("the disk is full")
        await super().append(entry, then)


class Logged:
    """A server whose store writes when it is told to."""

    def __init__(self, world: World, store: WriteAhead, inner: GatedLog, path: Path) -> None:
        self.world = world
        self.store = store
        self.inner = inner
        self._path = path

    async def stream(self, name: str = "s") -> Stream:
        """That holds its session after two turns, tokens 1 and 2."""
        await self.world.open(name)
        stream = Stream(self.world, name)
        for token in (1, 2):
            await stream.say(token)
        assert stream.holds
        return stream

    async def left(self, name: str = "s") -> Held:
        return await held_after_crash(self._path, self.world.ledger, self.world.clock, name)

    def crash(self) -> contextlib.AbstractAsyncContextManager[WriteAhead]:
        return after_crash(self._path, self.world.ledger, self.world.clock)


@contextlib.asynccontextmanager
async def logging(directory: Path, model: ToyModel | None = None, **changes: Any) -> AsyncIterator[Logged]:
    path = directory / "sessions.db"
    made = list[GatedLog]()

    def make(clock: Clock) -> WriteAhead:
        made.append(GatedLog(path, clock))
        return WriteAhead(made[0], 1e6)

    async with running_world(Plan(model or ToyModel(), store=make, retention=RETENTION, **changes)) as world:
        assert isinstance(world.store, WriteAhead)
        yield Logged(world, world.store, made[0], path)


def facts(ledger: Ledger, held: Held, ids: list[str]) -> object:
    """All that one can find out about a session."""
    boundaries = {at: ledger.find(held, at, "") for at in ledger.positions(held)}
    answers = [ledger.find_answer(held, one) for one in ids]
    return held.row.position, boundaries, ledger.marks(held), answers, [ledger.is_used(held, one) for one in ids]


async def test_a_turn_is_answered_when_it_is_in_the_log(tmp_path: Path) -> None:
    """Not before; and then the next server has it, with what it was answered."""
    async with logging(tmp_path) as it:
        stream = await it.stream()
        it.inner.gate.clear()
        running = asyncio.create_task(stream.say(3, "r"))
        it.inner.reached.clear()
        await it.inner.reached.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not running.done()
        assert (await it.left()).row.position == 2
        it.inner.gate.set()
        assert await running == 3
        assert stream.holds
        found, ledger = await it.left(), it.world.ledger
        expected = it.world.oracle.feed(it.world.engine.start_snapshot, (1, 2, 3))
        assert same_snapshot(it.world.codec.decode(ledger.current(found)), expected)
        live = await it.world.operations.history("ann", "s")
        assert ledger.find_answer(found, "r") == ledger.find_answer(await it.world.hold("s"), "r")
        assert ledger.positions(found) == list(live.positions)


async def test_what_is_said_to_be_durable_is(tmp_path: Path) -> None:
    async with logging(tmp_path) as it:
        stream = await it.stream()
        for token in (3, 4):
            named = await stream.talk.answer_plain(Plain(token, 2))
            assert named is not None
            assert named.durable_position == named.position == (await it.left()).row.position


@pytest.mark.parametrize("seed", range(6))
async def test_whenever_the_server_dies_nothing_is_lost(seed: int, tmp_path: Path) -> None:
    """Between turns of streams, turns in the ordinary way, rewinds, checkpoints, deletions, writes and give-backs."""
    dice = random.Random(seed)
    async with logging(tmp_path) as it:
        operations, residents, streams = it.world.operations, it.world.residents, dict[str, Stream]()
        ids = list[str]()
        for _ in range(120):
            name = dice.choice(NAMES)
            if not isinstance(await it.store.read("ann", name), Row):
                await it.world.open(name)
            stream = streams.setdefault(name, Stream(it.world, name))
            ids.append(f"r{len(ids)}")
            it.world.clock.advance(dice.random())
            match dice.choices(range(8), [30, 3, 2, 1, 1, 4, 3, 2])[0]:
                case 0:
                    for token in range(dice.randrange(1, 6)):
                        ids.append(f"r{len(ids)}")
                        await stream.say(token, dice.choice(["", ids[-1]]))
                case 1:
                    await stream.say_otherwise(dice.randrange(16), ids[-1])
                case 2:
                    positions = (await operations.history("ann", name)).positions
                    await operations.rewind("ann", name, Point(dice.choice(positions)), None)
                case 3:
                    await operations.mark("ann", name, "m")
                case 4:
                    await operations.delete("ann", name)
                case 5:
                    await it.store.flush()
                case 6:
                    await residents.settle()
                case _:
                    await residents.leave_all()
            residents._wanted.clear()
            if dice.random() < 0.3:
                await compare(it, ids[-12:])
        await compare(it, ids)
        assert it.world.value("held_turns_total") > 100


async def compare(it: Logged, ids: list[str]) -> None:
    """What a crash would leave is what the living server has."""
    ledger = it.world.ledger
    async with it.crash() as crashed:
        found = {name: await crashed.acquire("ann", name) for name in NAMES}
        for held in found.values():
            if isinstance(held, Held):
                await crashed.release(held)
    for name in NAMES:
        await it.world.residents.leave(("ann", name))
        living, left = await it.store.acquire("ann", name), found[name]
        if not isinstance(living, Held):
            assert type(left) is type(living)
            continue
        await it.store.release(living)
        assert isinstance(left, Held)
        assert facts(ledger, left, ids) == facts(ledger, living, ids)
        assert left.row.updated_at == pytest.approx(living.row.updated_at, abs=1e-3)
    it.world.residents._wanted.clear()


async def test_a_turn_that_cannot_be_logged_has_not_happened(tmp_path: Path) -> None:
    """It is refused; those before it are there; the next one takes its place, also after a crash."""
    async with logging(tmp_path) as it:
        stream = await it.stream()
        it.inner.is_broken = True
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await stream.talk.answer_plain(Plain(9, 2, "r"))
        assert stream.holds
        assert (await it.left()).row.position == 2
        it.inner.is_broken = False
        assert await stream.say(4, "r", expected=2) == 3
        expected = it.world.oracle.feed(it.world.engine.start_snapshot, (1, 2, 4))
        for held in (await it.left(), await settled(it)):
            assert same_snapshot(it.world.codec.decode(it.world.ledger.current(held)), expected)


async def settled(it: Logged) -> Held:
    await it.world.residents.leave_all()
    return await it.world.hold("s")


async def test_a_turn_that_was_logged_and_refused_gives_way_to_the_next(tmp_path: Path) -> None:
    """A disk that fails while it writes may have written all the same."""
    async with logging(tmp_path) as it:
        stream = await it.stream()
        real = SqliteStore.append

        async def append(self: SqliteStore, entry: bytes, then: Callable[[int], None]) -> None:
            await real(self, entry, lambda number: None)
            raise StoreUnavailable("the disk fails")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SqliteStore, "append", append)
            with pytest.raises(StoreUnavailable):
                await stream.talk.answer_plain(Plain(9, 2, "r"))
        assert await stream.say(4) == 3
        assert await stream.say(5) == 4
        expected = it.world.oracle.feed(it.world.engine.start_snapshot, (1, 2, 4, 5))
        found = await it.left()
        assert same_snapshot(it.world.codec.decode(it.world.ledger.current(found)), expected)
        assert not it.world.ledger.is_used(found, "r")


async def test_a_write_waits_for_a_turn_on_its_way_to_the_log(tmp_path: Path) -> None:
    """What the entry says of its session must be true when it is there: else the turn would be lost or come twice."""
    async with logging(tmp_path) as it:
        stream = await it.stream()
        await stream.say(3)
        it.inner.gate.clear()
        it.inner.reached.clear()
        running = asyncio.create_task(stream.say(4, "r"))
        await it.inner.reached.wait()
        writing = asyncio.create_task(it.store.flush())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not writing.done()
        it.inner.gate.set()
        assert await running == 4
        assert (await it.left()).row.position == 4
        await writing
        assert (await it.left()).row.position == 4
        assert await stream.say(5) == 5
        found = await it.left()
        assert it.world.ledger.positions(found) == [2, 3, 4, 5]
        assert it.world.ledger.is_used(found, "r")


async def test_a_write_beside_a_step_that_runs(tmp_path: Path) -> None:
    """It need not wait: nothing is said of that turn yet."""
    model = GatedModel()
    async with logging(tmp_path, model) as it:
        stream = await it.stream()
        model.close()
        running = asyncio.create_task(stream.say(3))
        await model.until_held()
        async with asyncio.timeout(5):
            await it.store.flush()
        assert await it.inner.read_log() == []
        model.gate.set()
        assert await running == 3
        assert (await it.left()).row.position == 3


async def test_turns_during_a_write_stay_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not in it."""
    async with logging(tmp_path) as it:
        stream = await it.stream()
        real = it.inner.write

        async def write(held: Held, change: Change, row: Row) -> Row:
            assert await stream.say(3) == 3
            return await real(held, change, row)

        monkeypatch.setattr(it.inner, "write", write)
        await it.store.flush()
        (entry,) = await it.inner.read_log()
        assert it.store._num_bytes == len(entry)
        assert (await it.left()).row.position == 3
        monkeypatch.undo()


async def test_a_turn_that_is_given_up_on_its_way_happens(tmp_path: Path) -> None:
    """In the log it is there for the next server, so it must be here as well; it is asked for again under its id."""
    async with logging(tmp_path) as it:
        stream = await it.stream()
        it.inner.gate.clear()
        it.inner.reached.clear()
        running = asyncio.create_task(stream.say(3, "r"))
        await it.inner.reached.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        closing = asyncio.create_task(stream.talk.close())
        it.inner.gate.set()
        await closing
        assert (await it.world.operations.get("ann", "s")).position == 3
        assert (await it.left()).row.position == 3
        assert await Stream(it.world, "s").say(3, "r") == 3


async def test_a_session_that_ends_while_a_turn_is_on_its_way(tmp_path: Path) -> None:
    """Its turn has not happened, here or after a crash."""
    async with logging(tmp_path) as it:
        stream = await it.stream()
        it.inner.gate.clear()
        it.inner.reached.clear()
        running = asyncio.create_task(stream.say(3))
        await it.inner.reached.wait()
        await it.store.end((await it.world.hold("s")).row, EndReason.DELETED)
        it.inner.gate.set()
        with pytest.raises(SessionDeleted):
            await running
        async with it.crash() as store:
            assert not isinstance(await store.read("ann", "s"), Row)


async def test_characters_that_are_not_whole_survive(tmp_path: Path) -> None:
    """The bytes at the end that the next token may make one of."""
    async with logging(tmp_path, ToyModel(256), tokenizer=byte_tokenizer()) as it:
        await it.world.open("s")
        stream, codec, ledger = Stream(it.world, "s"), it.world.codec, it.world.ledger
        for byte, tail in zip("a\u00e9\u4e00".encode(), (b"", b"\xc3", b"", b"\xe4", b"\xe4\xb8", b""), strict=True):
            await stream.say(byte)
            assert codec.decode(ledger.current(await it.left())).tail == tail


async def test_the_log_is_trimmed_by_each_write(tmp_path: Path) -> None:
    """But for what came since it began; a clean end leaves none."""
    async with logging(tmp_path) as it:
        stream = await it.stream()
        for token in (3, 4, 5):
            await stream.say(token)
        assert len(await it.inner.read_log()) >= 3
        await it.store.flush()
        assert await it.inner.read_log() == []
        await stream.say(6)
        assert len(await it.inner.read_log()) == 1
    inner = SqliteStore(tmp_path / "sessions.db", ROOMY, LIFETIMES)
    await inner.start(lambda _: None)
    assert await inner.read_log() == []
    await inner.close()


async def test_a_log_that_grows_is_written_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where that fails for long, turns are refused before it is too large."""
    monkeypatch.setattr(write_ahead, "_LARGE_BYTES", 1000)
    monkeypatch.setattr(write_ahead, "_MAX_BYTES", 3000)
    async with logging(tmp_path) as it:
        stream = await it.stream()
        for _ in range(40):
            await stream.say(3)
        assert len(await it.inner.read_log()) < 20

        async def fail(*_: object) -> Row:
            raise StoreUnavailable("the disk is full")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(it.inner, "write", fail)
            acknowledged = (await it.left()).row.position
            while it.store._num_bytes < 3000:
                acknowledged = await stream.say(3)
            with pytest.raises(StoreUnavailable):
                await stream.talk.answer_plain(Plain(3, 2))
            assert (await it.left()).row.position == acknowledged
        await it.store.flush()
        assert await stream.say(3) == acknowledged + 1


async def test_a_server_that_dies_while_it_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before or after it has written what it found, the one after it finds the same."""
    path, ledger = tmp_path / "sessions.db", Ledger(RETENTION)
    async with logging(tmp_path) as it:
        streams = [await it.stream(name) for name in NAMES]
        for number, stream in enumerate(streams):
            for token in range(number):
                await stream.say(token, f"r{token}")
                await it.world.residents.settle()
        clock = it.world.clock
        expected = [facts(ledger, await it.left(name), ["r0", "r1"]) for name in NAMES]
        monkeypatch.setattr(SqliteStore, "trim", _nothing)
        async with it.crash():
            pass
        found = []
        for name in NAMES:
            held = await held_after_crash(tmp_path / "crashed" / path.name, ledger, clock, name)
            found.append(facts(ledger, held, ["r0", "r1"]))
        assert found == expected
        monkeypatch.undo()


async def _nothing(*_: object) -> None:
    return None


async def test_what_ended_does_not_come_back(tmp_path: Path) -> None:
    """Nor do its turns reach a namesake."""
    async with logging(tmp_path) as it:
        for name, reason in (("s", EndReason.DELETED), ("t", EndReason.UNDONE)):
            stream = await it.stream(name)
            await stream.say(3)
            await it.store.end((await it.world.hold(name)).row, reason)
        await it.world.open("s")
        assert (await it.left("s")).row.position == 0
        async with it.crash() as store:
            assert not isinstance(await store.read("ann", "t"), Row)


async def test_a_log_is_recovered_whatever_the_durability(tmp_path: Path) -> None:
    """A server that is started with `interval` has the turns that one without it has logged."""
    async with logging(tmp_path) as it:
        stream = await it.stream()
        await stream.say(3)
        inner = SqliteStore(copy_file(tmp_path / "sessions.db"), ROOMY, LIFETIMES, clock=it.world.clock)
        store = WriteBehind(inner, 1e6)
        await store.start(lambda _: None)
        await recover(store, it.world.ledger, it.world.clock())
        for one in (store, inner):
            found = await one.read("ann", "s")
            assert isinstance(found, Row)
            assert found.position == 3
        assert await inner.read_log() == []
        await store.close()


async def test_a_log_that_is_damaged_is_not_ignored(tmp_path: Path) -> None:
    async with logging(tmp_path) as it:
        await it.stream()
        for entry in (b"something else", b"CTL\x01" + bytes(30), b"CTL\x01" + bytes(48)[:-1] + b"\x00" * 5):
            await it.inner.append(entry, lambda _: None)
            with pytest.raises(StoreInvalid):
                async with it.crash():
                    pass
            await it.inner.trim(2**62)
