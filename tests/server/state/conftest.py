"""Stores to test, and a real redis-server."""

import contextlib
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.fakes import FakeClock

from carousel.state.memory import MemoryStore
from carousel.state.redis_store import RedisStore, Timing
from carousel.state.sqlite_store import SqliteStore
from carousel.state.store import (
    Birth,
    Capacity,
    Change,
    Ending,
    Held,
    Lifetimes,
    Parts,
    Row,
    SessionStore,
)
from carousel.state.write_ahead import WriteAhead
from carousel.state.write_behind import WriteBehind

WIDE = Capacity(max_sessions=100_000, max_bytes=2**40, evicts=False)
LONG = Lifetimes(idle=600.0, absolute=86_400.0)
NOW = 1_700_000_000.25
QUICK = Timing(lease=0.3, time_out=0.5, patience=1.0, ending=60.0)


@dataclass
class RedisServer:
    """A redis-server on a free port, with its command line."""

    directory: Path
    options: tuple[str, ...] = ()
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        while not 0 < self.port < 55_000:  # a cluster needs port + 10,000 as well
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
        program = shutil.which("redis-server")
        assert program is not None
        fixed = ("--port", str(self.port), "--dir", str(self.directory), "--bind", "127.0.0.1", "--save", "")
        self.process = subprocess.Popen([program, *fixed, *self.options], stdout=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.1):
                return
        raise RuntimeError("redis-server did not start")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with run_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server for this test alone, which may kill it. Acknowledged writes are on its disk."""
    with run_redis(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@contextlib.contextmanager
def run_redis(directory: Path, *options: str) -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (Debian package redis-server)")
    server = RedisServer(directory, options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
def told() -> list[Ending]:
    """The endings that the store reported."""
    return []


@pytest.fixture(params=["memory", "sqlite", "write-ahead", "write-behind", "redis"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock, told: list[Ending]
) -> AsyncIterator[SessionStore]:
    """Each implementation, open, wide and empty."""
    made = make_store(request.param, request, tmp_path, WIDE, clock=clock)
    await made.start(told.append)
    yield made
    await made.close()


def make_store(
    kind: str,
    request: pytest.FixtureRequest,
    directory: Path,
    capacity: Capacity = WIDE,
    *,
    lifetimes: Lifetimes = LONG,
    clock: Callable[[], float] = time.time,
) -> SessionStore:
    """Redis has a clock of its own."""
    if kind == "memory":
        return MemoryStore(capacity, lifetimes, clock=clock)
    if kind == "redis":
        server: RedisServer = request.getfixturevalue("shared_redis")
        subprocess.run(["redis-cli", "-p", str(server.port), "flushall"], check=True, stdout=subprocess.DEVNULL)
        return RedisStore(server.url, lifetimes, timing=QUICK, owner_limits=capacity.owner_limits)
    durable = SqliteStore(directory / "sessions.db", capacity, lifetimes, clock=clock)
    if kind == "sqlite":
        return durable
    return (WriteBehind if kind == "write-behind" else WriteAhead)(durable, interval_seconds=0.01)


def make_birth(session_id: str = "s", owner: str = "ann", parts: Parts | None = None, *, position: int = 0) -> Birth:
    return Birth(session_id, owner, secrets.randbits(62), position, {"at/0": b"0"} if parts is None else parts)


async def open_session(store: SessionStore, session_id: str = "s", owner: str = "ann") -> Row:
    """A new session with one part, `at/0`."""
    (row,) = await store.create([make_birth(session_id, owner)])
    return row


def step(held: Held, put: Parts, drop: tuple[str, ...] = ()) -> Change:
    """One token further."""
    return Change(held.row.position + 1, put, drop)


async def take(store: SessionStore, session_id: str = "s", owner: str = "ann", room: int = 0) -> Held:
    held = await store.acquire(owner, session_id, room)
    assert isinstance(held, Held)
    return held


async def advance(store: SessionStore, session_id: str = "s", owner: str = "ann") -> Row:
    """A whole turn, whose part is named by its revision."""
    held = await take(store, session_id, owner)
    try:
        return await store.commit(held, step(held, {f"at/{held.row.revision + 1}": b"%d" % held.row.revision}))
    finally:
        await store.release(held)
