"""What the tests of a store with a log share: a server whose log waits or fails as told, and what a crash leaves."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from tests.bounds import make_retention
from tests.fakes import ToyModel
from tests.server.sessions.crashes import after_crash, held_after_crash
from tests.server.sessions.held_streams import Stream
from tests.worlds import LIFETIMES, Clock, Plan, World, running_world

from carousel.errors import StoreUnavailable
from carousel.sessions.ledger import Ledger
from carousel.state.sqlite_store import SqliteStore
from carousel.state.store import Capacity, Held
from carousel.state.write_ahead import WriteAhead

ROOMY = Capacity(1000, 2**30, evicts=True)
RETENTION = make_retention(max_turns=3, max_answers=2, max_answer_bytes=65_536, max_request_ids=12)
NAMES = ("a", "b", "c")


class GatedLog(SqliteStore):
    """Its entries wait for a gate before they are appended, or fail."""

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
        """Opens a stream that holds its session after two turns, tokens 1 and 2."""
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
    """Returns all that one can find out about a session."""
    boundaries = {at: ledger.find(held, at, "") for at in ledger.positions(held)}
    answers = [ledger.find_answer(held, one) for one in ids]
    return held.row.position, boundaries, ledger.marks(held), answers, [ledger.is_used(held, one) for one in ids]
