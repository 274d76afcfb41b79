"""The store that the settings name is the one that is made, with their bounds."""

import subprocess
import sys
from pathlib import Path

import pytest

from carousel.settings import read_settings
from carousel.state.memory import MemoryStore
from carousel.state.redis_store import RedisStore
from carousel.state.selection import make_store
from carousel.state.sqlite_store import SqliteStore
from carousel.state.write_behind import WriteBehind


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"store": "memory"}, MemoryStore),
        ({"store": "sqlite:x.db"}, SqliteStore),
        ({"store": "sqlite:x.db", "durability": "interval"}, WriteBehind),
        ({"store": "redis://localhost"}, RedisStore),
    ],
)
def test_the_named_store_is_made(given: dict[str, str], kind: type) -> None:
    """Nothing is opened by that."""
    assert type(make_store(read_settings({}, given))) is kind
    assert not Path("x.db").exists()


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
