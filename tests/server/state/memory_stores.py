"""What the tests of sessions in memory share: a small capacity, a store that is started, and a whole sweep."""

from tests.fakes import FakeClock
from tests.server.state.conftest import LONG, WIDE

from carousel.state.memory import MemoryStore
from carousel.state.store import Capacity, Ending, Lifetimes

TIGHT = Capacity(max_sessions=5, max_bytes=10_000, evicts=True)


async def make_store(
    told: list[Ending], clock: FakeClock, capacity: Capacity = WIDE, lifetimes: Lifetimes = LONG
) -> MemoryStore:
    store = MemoryStore(capacity, lifetimes, clock=clock)
    await store.start(told.append)
    return store


async def sweep_all(store: MemoryStore) -> int:
    num_ended = 0
    while ended := await store.sweep(100):
        num_ended += ended
    return num_ended
