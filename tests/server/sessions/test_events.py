"""Watchers hear of their own sessions, in order, from when they began; one that missed events is told so."""

import asyncio

import pytest

from carousel.errors import Overloaded
from carousel.sessions import events
from carousel.sessions.events import EventHub, EventKind, SessionEvent
from carousel.shares import OwnerLimits


def event(number: int, owner: str = "ann") -> SessionEvent:
    return SessionEvent(EventKind.CREATED, f"s{number}", owner, float(number))


async def test_a_watcher_hears_what_happens_from_now_on() -> None:
    """The watcher hears all later events in order, and none from before."""
    hub = EventHub()
    hub.publish(event(0))
    with hub.watch("ann") as heard:
        for number in (1, 2, 3):
            hub.publish(event(number))
        assert [await anext(heard) for _ in range(3)] == [event(1), event(2), event(3)]


async def test_events_are_for_their_owner() -> None:
    """Each watcher of the owner hears them, and no other owner's does."""
    hub = EventHub()
    with hub.watch("ann") as one, hub.watch("ann") as other, hub.watch("bob") as stranger, hub.watch("") as nobody:
        hub.publish(event(1))
        assert [await anext(one), await anext(other)] == [event(1)] * 2
        hub.publish(event(2, "bob"))
        hub.publish(event(3, ""))
        assert (await anext(stranger), await anext(nobody)) == (event(2, "bob"), event(3, ""))


async def test_a_waiting_watcher_wakes() -> None:
    """An event reaches a watcher that waits for it."""
    hub = EventHub()
    with hub.watch("ann") as heard:
        waiting = asyncio.ensure_future(anext(heard))
        await asyncio.sleep(0)
        assert not waiting.done()
        hub.publish(event(1))
        assert await waiting == event(1)


@pytest.mark.parametrize("is_waiting", [True, False])
@pytest.mark.parametrize("num_events", [3, 4, 50])
async def test_a_watcher_that_missed_events_is_told(
    monkeypatch: pytest.MonkeyPatch, num_events: int, is_waiting: bool
) -> None:
    """Up to the bound no event is missed; beyond it the reader gets the error instead of events with a gap."""
    monkeypatch.setattr(events, "_MAX_BEHIND", 3)
    hub = EventHub()
    with hub.watch("ann") as heard:
        waiting = asyncio.ensure_future(anext(heard)) if is_waiting else None
        await asyncio.sleep(0)
        for number in range(num_events):
            hub.publish(event(number))
        if num_events > 3:
            with pytest.raises(Overloaded, match="missed") as missed:
                await (waiting or anext(heard))
            assert missed.value.limit == "watch"
            return
        found = [await (waiting or anext(heard)), await anext(heard), await anext(heard)]
        hub.publish(event(3))
        assert [*found, await anext(heard)] == [event(number) for number in range(4)]


async def test_an_owners_watchers_are_bounded() -> None:
    """Beyond the bound the owner is refused by the setting's name, another owner is not, and a watcher that leaves
    makes room."""
    hub = EventHub(OwnerLimits(max_watches=2))
    with hub.watch("ann") as first:
        with hub.watch("ann"):
            with pytest.raises(Overloaded) as refused, hub.watch("ann"):
                pass
            assert refused.value.limit == "max_watches_per_owner"
            with hub.watch("bob"):
                pass
        with hub.watch("ann") as again:
            hub.publish(event(1))
            assert [await anext(first), await anext(again)] == [event(1)] * 2
    assert hub._boards == {}


async def test_a_slow_watcher_does_not_hold_up_a_quick_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watcher that keeps up hears all events; only the slow one misses some."""
    monkeypatch.setattr(events, "_MAX_BEHIND", 3)
    hub = EventHub()
    with hub.watch("ann") as quick, hub.watch("ann") as slow:
        for number in range(10):
            hub.publish(event(number))
            assert await anext(quick) == event(number)
        with pytest.raises(Overloaded, match="missed"):
            await anext(slow)


async def test_many_watchers_are_woken_a_few_at_a_time() -> None:
    """All of them hear all events in order. One round of the event loop wakes a bounded number, even when events come
    meanwhile; when all have heard them, nothing is kept."""
    hub = EventHub()
    heard: list[list[SessionEvent]] = [[] for _ in range(100)]

    async def read(number: int) -> None:
        with hub.watch("ann") as one:
            async for found in one:
                heard[number].append(found)

    tasks = [asyncio.create_task(read(number)) for number in range(100)]
    await asyncio.sleep(0)
    sizes = [0]
    for number in range(3):
        hub.publish(event(number))
        for _ in range(1 if number < 2 else 30):
            await asyncio.sleep(0)
            sizes.append(sum(map(len, heard)))
    assert heard == [[event(number) for number in range(3)]] * 100
    steps = [after - before for before, after in zip(sizes, sizes[1:], strict=False)]
    assert max(steps) <= 3 * events._WOKEN_AT_ONCE
    assert steps[-1] == 0
    board = hub._boards["ann"]
    assert (len(board._events), len(board._waiting), len(board._waking)) == (0, 100, 0)
    for task in tasks[:50]:
        task.cancel()
    await asyncio.gather(*tasks[:50], return_exceptions=True)
    assert (board.num_watchers, len(board._waiting)) == (50, 50)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert hub._boards == {}


async def test_a_watcher_that_leaves_while_woken_is_forgotten() -> None:
    """The others still hear the event."""
    hub = EventHub()
    with hub.watch("ann") as one, hub.watch("ann") as other:
        leaving, staying = (asyncio.ensure_future(anext(each)) for each in (one, other))
        await asyncio.sleep(0)
        hub.publish(event(1))
        leaving.cancel()
        assert await staying == event(1)
        assert leaving.cancelled()
        assert hub._boards["ann"]._waking == {}


async def test_nothing_is_kept_for_those_who_left() -> None:
    """After the block, even one that failed, the hub holds no queue."""
    hub = EventHub()
    with pytest.raises(ValueError, match="oops"), hub.watch("ann"), hub.watch("ann"):
        raise ValueError("oops")
    hub.publish(event(1))
    assert hub._boards == {}
