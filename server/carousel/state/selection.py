"""The store that the settings name. Only that store is imported."""

from pathlib import Path

from carousel.settings import Settings
from carousel.shares import LimitsByOwner
from carousel.state.store import Capacity, Lifetimes, SessionStore

_MEMORY_BYTES, _DISK_BYTES = 2**31, 2**40


def make_store(settings: Settings, owner_limits: LimitsByOwner | None = None) -> SessionStore:
    """`owner_limits` stand in place of the settings'."""
    limits = owner_limits or settings.owner_limits
    lifetimes = Lifetimes(settings.session_idle_seconds, settings.session_lifetime_seconds)
    if settings.store == "memory":
        from carousel.state.memory import MemoryStore

        file = Path(settings.memory_file) if settings.memory_file else None
        return MemoryStore(_capacity(settings, _MEMORY_BYTES, limits), lifetimes, file)
    if settings.store.startswith("sqlite:"):
        return _make_sqlite(settings, lifetimes, limits)
    from carousel.state.redis_store import RedisStore, Timing

    password = settings.store_password.get_secret_value() if settings.store_password else None
    timing = Timing(lease=settings.lease_seconds)
    return RedisStore(settings.store, lifetimes, password=password, timing=timing, owner_limits=limits)


def store_limits(settings: Settings) -> dict[str, int | None]:
    """By the settings' names. In Redis, how many sessions there are bounds nothing: None."""
    max_bytes = choose_max_bytes(settings)
    return {"max_session_bytes": max_bytes, "max_sessions": settings.max_sessions if max_bytes is not None else None}


def choose_max_bytes(settings: Settings) -> int | None:
    """Returns the bytes that sessions may take; None in Redis, which has its own bounds."""
    if settings.store == "memory":
        return settings.max_session_bytes or _MEMORY_BYTES
    return settings.max_session_bytes or _DISK_BYTES if settings.store.startswith("sqlite:") else None


def _make_sqlite(settings: Settings, lifetimes: Lifetimes, limits: LimitsByOwner) -> SessionStore:
    from carousel.state.sqlite_store import SqliteStore
    from carousel.state.write_ahead import WriteAhead
    from carousel.state.write_behind import WriteBehind

    path = Path(settings.store.removeprefix("sqlite:"))
    durable = SqliteStore(path, _capacity(settings, _DISK_BYTES, limits), lifetimes)
    return WriteAhead(durable) if settings.durability == "each_turn" else WriteBehind(durable, settings.flush_seconds)


def _capacity(settings: Settings, default_bytes: int, limits: LimitsByOwner) -> Capacity:
    max_bytes = settings.max_session_bytes or default_bytes
    return Capacity(settings.max_sessions, max_bytes, settings.when_full == "evict", limits)
