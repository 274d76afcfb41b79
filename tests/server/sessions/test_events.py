"""Watchers hear of their own sessions, in order, from when they began; one that missed some is told so."""

import asyncio

import pytest

from carousel.errors import Overloaded
from carousel.sessions import events
from carousel.sessions.events import EventHub, EventKind, SessionEvent


def event(number: int, owner: str = "ann") -> SessionEvent:
    return SessionEvent(EventKind.CREATED, f"s{number}", owner, float(number))


async def test_a_watcher_hears_what_happens_from_now_on() -> None:
    """In order, all of it, nothing from before."""
    hub = EventHub()
    hub.publish(event(0))
    with hub.watch("ann") as heard:
        for number in (1, 2, 3):
            hub.publish(event(number))
        assert [await anext(heard) for _ in range(3)] == [event(1), event(2), event(3)]


async def test_events_are_for_their_owner() -> None:
    """Each watcher of the owner hears them, nobody else does."""
    hub = EventHub()
    with hub.watch("ann") as one, hub.watch("ann") as other, hub.watch("bob") as stranger, hub.watch("") as nobody:
        hub.publish(event(1))
        assert [await anext(one), await anext(other)] == [event(1)] * 2
        hub.publish(event(2, "bob"))
        hub.publish(event(3, ""))
        assert (await anext(stranger), await anext(nobody)) == (event(2, "bob"), event(3, ""))


async def test_a_waiting_watcher_wakes() -> None:
    """An event that comes while somebody waits reaches them."""
    hub = EventHub()
    with hub.watch("ann") as heard:
        waiting = asyncio.ensure_future(anext(heard))
        await asyncio.sleep(0)
        assert not waiting.done()
        hub.publish(event(1))
        assert await waiting == event(1)


@pytest.mark.parametrize("is_waiting", [True, False])
@pytest.mark.parametrize("num_events", [3, 4, 50])
async def test_a_watcher_that_missed_events_is_told_where(
    monkeypatch: pytest.MonkeyPatch, num_events: int, is_waiting: bool
) -> None:
    """Up to the bound nothing is missed; beyond it the reader gets what came before the gap and then the error."""
    monkeypatch.setattr(events, "_MAX_BEHIND", 3)
    hub = EventHub()
    with hub.watch("ann") as heard:
        waiting = asyncio.ensure_future(anext(heard)) if is_waiting else None
        await asyncio.sleep(0)
        for number in range(num_events):
            hub.publish(event(number))
        found = [await waiting] if waiting is not None else []
        while len(found) < 3:
            found.append(await anext(heard))
        assert found == [event(number) for number in range(3)]
        if num_events == 3:
            hub.publish(event(3))
            assert await anext(heard) == event(3)
        else:
            with pytest.raises(Overloaded, match="missed") as missed:
                await anext(heard)
            assert missed.value.limit == "watch"


async def test_nothing_is_kept_for_those_who_left() -> None:
    """After the block, also one that failed, the hub holds no queue."""
    hub = EventHub()
    with pytest.raises(ValueError, match="oops"), hub.watch("ann"), hub.watch("ann"):
        raise ValueError("oops")
    hub.publish(event(1))
    assert hub._watchers == {}
