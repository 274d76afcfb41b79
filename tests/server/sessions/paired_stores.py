"""The stores that two worlds are compared on. Each world has one of its own, in a directory that has its name."""

from collections.abc import Callable
from pathlib import Path

from tests.worlds import Clock

from carousel.state.memory import MemoryStore
from carousel.state.redis_store import RedisStore
from carousel.state.redis_terms import Timing
from carousel.state.sqlite_store import SqliteStore
from carousel.state.store import Capacity, Lifetimes, SessionStore
from carousel.state.write_ahead import WriteAhead
from carousel.state.write_behind import WriteBehind

LIFETIMES = Lifetimes(idle=100, absolute=600)


def _memory(directory: Path, url: str, clock: Clock) -> SessionStore:
    return MemoryStore(Capacity(1000, 2**30, evicts=True), LIFETIMES, clock=clock)


def _small_memory(directory: Path, url: str, clock: Clock) -> SessionStore:
    return MemoryStore(Capacity(3, 2**30, evicts=True), LIFETIMES, clock=clock)


def _sqlite(directory: Path, url: str, clock: Clock) -> SessionStore:
    inner = SqliteStore(directory / "sessions.db", Capacity(1000, 2**30, evicts=True), LIFETIMES, clock=clock)
    return WriteAhead(inner, 0.01)


def _write_behind(directory: Path, url: str, clock: Clock) -> SessionStore:
    inner = SqliteStore(directory / "sessions.db", Capacity(1000, 2**30, evicts=True), LIFETIMES, clock=clock)
    return WriteBehind(inner, 0.01)


def _redis(directory: Path, url: str, clock: Clock) -> SessionStore:
    database = 0 if directory.name == "held" else 1
    return RedisStore(f"{url.removesuffix('/0')}/{database}", Lifetimes(10_000, 10_000), timing=Timing(lease=10.0))


STORES: dict[str, Callable[[Path, str, Clock], SessionStore]] = {
    "memory": _memory,
    "small memory": _small_memory,
    "sqlite": _sqlite,
    "write behind": _write_behind,
    "redis": _redis,
}
