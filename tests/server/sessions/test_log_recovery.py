"""A server that starts takes every logged turn from the log, once, also where the one before died in that."""

from pathlib import Path

import pytest
from tests.fakes import ToyModel, byte_tokenizer
from tests.server.sessions.crashes import copy_file, held_after_crash
from tests.server.sessions.held_streams import Stream
from tests.server.sessions.logged_servers import NAMES, RETENTION, ROOMY, facts, logging
from tests.worlds import LIFETIMES

from carousel.errors import StoreInvalid
from carousel.sessions.ledger import Ledger
from carousel.sessions.recovery import recover
from carousel.state.sqlite_store import SqliteStore
from carousel.state.store import EndReason, Row
from carousel.state.write_behind import WriteBehind


async def test_characters_that_are_not_whole_survive(tmp_path: Path) -> None:
    """The tail keeps the bytes of which the next token may make a character."""
    async with logging(tmp_path, ToyModel(256), tokenizer=byte_tokenizer()) as it:
        await it.world.open("s")
        stream, codec, ledger = Stream(it.world, "s"), it.world.codec, it.world.ledger
        for byte, tail in zip("a\u00e9\u4e00".encode(), (b"", b"\xc3", b"", b"\xe4", b"\xe4\xb8", b""), strict=True):
            await stream.say(byte)
            assert codec.decode(ledger.current(await it.left())).tail == tail


async def test_a_server_that_dies_while_it_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server dies before or after it has written what it found: the next one finds the same."""
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
    """Its turns do not reach a later session under the id either."""
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
    """A server with `interval` recovers the turns that a server without it has logged."""
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
