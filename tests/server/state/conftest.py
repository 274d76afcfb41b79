"""Stores to test, and a real redis-server."""

import asyncio
import contextlib
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest
from tests.fakes import FakeClock

from carousel.state.memory import MemoryStore
from carousel.state.redis_store import RedisStore, Timing
from carousel.state.sqlite_store import SqliteStore
from carousel.state.store import (
    Birth,
    Capacity,
    Change,
    Deed,
    Ending,
    Held,
    Lifetimes,
    Parts,
    Row,
    SessionStore,
)
from carousel.state.write_behind import WriteBehind

WIDE = Capacity(max_sessions=100_000, max_bytes=2**40, evicts=False)
LONG = Lifetimes(idle=600.0, absolute=86_400.0)
NOW = 1_700_000_000.25
BOUNDED = ["memory", "sqlite", "write-behind"]
QUICK = Timing(lease=0.3, time_out=0.5, patience=1.0, ending=60.0)


@dataclass
class RedisServer:
    """A redis-server on a free port, with what it was told to do."""

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
    """One for this test alone, which may kill it. What it acknowledged is on its disk."""
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
    """What the store told of endings."""
    return []


@pytest.fixture(params=["memory", "sqlite", "write-behind", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each implementation; BOUNDED are those that have a capacity of their own."""
    return str(request.param)


class Opener(Protocol):
    async def __call__(self, capacity: Capacity = WIDE, lifetimes: Lifetimes = LONG) -> SessionStore: ...


@pytest.fixture
async def open_store(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock, told: list[Ending]
) -> AsyncIterator[Opener]:
    """Opens one store of the kind, empty, and closes it."""
    async with contextlib.AsyncExitStack() as opened:

        async def open_one(capacity: Capacity = WIDE, lifetimes: Lifetimes = LONG) -> SessionStore:
            made = make_store(kind, request, tmp_path, capacity, lifetimes=lifetimes, clock=clock)
            await made.start(told.append)
            opened.push_async_callback(made.close)
            return made

        yield open_one


@pytest.fixture
async def store(open_store: Opener) -> SessionStore:
    """Each implementation, open, wide and empty."""
    return await open_store()


Later = Callable[[float], Awaitable[None]]


@pytest.fixture
def later(kind: str, request: pytest.FixtureRequest, clock: FakeClock) -> Later:
    """Lets seconds pass for the store."""

    async def let_pass(seconds: float) -> None:
        if kind == "redis":
            await asyncio.to_thread(age_redis, request.getfixturevalue("shared_redis"), seconds)
        clock.advance(seconds)

    if kind == "redis":
        request.getfixturevalue("shared_redis")
    return let_pass


_AGE = """
local seconds = tonumber(ARGV[1])
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind, is_held = redis.call('TYPE', key).ok, false
  if kind == 'hash' then
    local lease = redis.call('HGET', key, 'lease_until')
    is_held = lease and lease ~= '0'
    for _, field in ipairs(redis.call('HKEYS', key)) do
      local value = string.sub(field, -3) == '_at' and tonumber(redis.call('HGET', key, field))
      if value then redis.call('HSET', key, field, string.format('%.17g', value - seconds)) end
    end
  elseif kind == 'zset' then
    for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
      local score = tonumber(redis.call('ZSCORE', key, member))
      local unit = score > 1e14 and 1e6 or score > 1e11 and 1e3 or 1
      if score > 1e8 then redis.call('ZADD', key, string.format('%.17g', score - seconds * unit), member) end
    end
  end
  local left = redis.call('PTTL', key)
  if left > 0 and not is_held then redis.call('PEXPIRE', key, math.floor(math.max(0, left - seconds * 1000))) end
end
"""


def age_redis(server: RedisServer, seconds: float) -> None:
    """Redis has its own clock, which no test can move: instead all moments there become earlier."""
    command = ["redis-cli", "-p", str(server.port), "eval", _AGE, "0", str(seconds)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    assert not answer.stdout.strip(), answer.stdout


@pytest.fixture
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered of endings and deeds: 3 of an owner, 8 endings in all."""
    bounds = {"MAX_ENDINGS_PER_OWNER": 3, "MAX_ENDINGS": 8, "MAX_DEEDS_PER_OWNER": 3}
    for name, module in list(sys.modules.items()):
        for bound in bounds if name.startswith("carousel.state.") else ():
            if hasattr(module, bound):
                monkeypatch.setattr(module, bound, bounds[bound])


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
    return durable if kind == "sqlite" else WriteBehind(durable, interval_seconds=0.01)


async def settle(store: SessionStore) -> None:
    """What was acknowledged is where it will be."""
    if isinstance(store, WriteBehind):
        await store.flush()


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
    held = await store.take(owner, session_id, room)
    assert isinstance(held, Held)
    return held


async def advance(store: SessionStore, session_id: str = "s", owner: str = "ann") -> Row:
    """A whole turn, whose part is named by its revision."""
    held = await take(store, session_id, owner)
    try:
        return await store.commit(held, step(held, {f"at/{held.row.revision + 1}": b"%d" % held.row.revision}))
    finally:
        await store.release(held)


def make_deed(*births: Birth, request_id: str = "r", contents: str = "same") -> Deed:
    """What a request does that makes, or ends, these."""
    return Deed(births[0].owner, request_id, contents, tuple((birth.id, birth.incarnation) for birth in births))


async def owned(store: SessionStore, owner: str = "ann") -> list[str]:
    """The ids of the owner's sessions, in order of creation."""
    return [row.id for row in await store.list_owned(owner, (0.0, ""), 1000)]
