"""The settings name the store that is made, with its bounds."""

import subprocess
import sys
from pathlib import Path

import pytest

from carousel.settings import read_settings
from carousel.shares import OwnerLimits
from carousel.state.memory import MemoryStore
from carousel.state.redis_store import RedisStore
from carousel.state.selection import choose_max_bytes, make_store
from carousel.state.sqlite_store import SqliteStore
from carousel.state.store import Capacity, Lifetimes, SessionStore
from carousel.state.write_ahead import WriteAhead
from carousel.state.write_behind import WriteBehind


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"store": "memory"}, MemoryStore),
        ({"store": "sqlite:x.db"}, WriteAhead),
        ({"store": "sqlite:x.db", "durability": "interval"}, WriteBehind),
        ({"store": "redis://localhost"}, RedisStore),
    ],
)
def test_the_named_store_is_made(given: dict[str, str], kind: type) -> None:
    """The store is made without being opened."""
    assert type(make_store(read_settings({}, given))) is kind
    assert not Path("x.db").exists()


@pytest.mark.parametrize("when_full", ["evict", "refuse"])
@pytest.mark.parametrize(("store", "default_bytes"), [("memory", 2**31), ("sqlite:x.db", 2**40)])
def test_every_bound_reaches_the_store(store: str, default_bytes: int, when_full: str) -> None:
    """Each setting reaches the store by itself; without one, the bytes are the default of the kind of store."""
    given = {"store": store, "session_idle_seconds": "11", "session_lifetime_seconds": "12", "max_sessions": "13"}
    settings = read_settings({}, given | {"when_full": when_full, "max_sessions_per_owner": "14"})
    made = _behind(make_store(settings))
    assert made._lifetimes == Lifetimes(idle=11, absolute=12)
    limits = OwnerLimits(max_sessions=14, max_watches=16)
    assert made._capacity == Capacity(13, default_bytes, when_full == "evict", limits)
    wide = _behind(make_store(settings.model_copy(update={"max_session_bytes": 2**20})))
    assert wide._capacity.max_bytes == 2**20


def _behind(made: SessionStore) -> MemoryStore | SqliteStore:
    """Returns the store in which the sessions finally are."""
    found = made._inner if isinstance(made, WriteAhead) else made
    assert isinstance(found, MemoryStore | SqliteStore)
    return found


@pytest.mark.parametrize(
    ("store", "others"),
    [("memory", ("redis", "sqlite3")), ("sqlite:x.db", ("redis", "carousel.state.memory"))],
)
def test_only_what_is_used_is_imported(store: str, others: tuple[str, ...]) -> None:
    """A server without Redis starts where the client library for it is missing."""
    program = f"""
import sys
from carousel.settings import Settings
from carousel.state.selection import make_store
make_store(Settings(store={store!r}))
print([name for name in {others!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("store", "num_bytes"), [("memory", 2**31), ("sqlite:x.db", 2**40), ("redis://localhost", None)]
)
def test_the_bound_in_bytes_is_told(store: str, num_bytes: int | None) -> None:
    """The bound is the setting or the default of the kind of store; Redis has no bound of ours."""
    assert choose_max_bytes(read_settings({}, {"store": store})) == num_bytes
    chosen = choose_max_bytes(read_settings({}, {"store": store, "max_session_bytes": "70000"}))
    assert chosen == (None if num_bytes is None else 70_000)
