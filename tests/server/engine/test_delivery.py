"""Events reach their caller in order and once; tokens may share a wake-up, and no other event waits for one."""

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from carousel.engine.delivery import Pace, Ticket
from carousel.errors import ModelFailed
from carousel.turns import Event, Generated, Predicted


class ClockedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when told to, and at once when only a timer is left."""

    now = 1000.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now = max(self.now, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


@pytest.fixture
def loop() -> Iterator[ClockedLoop]:
    loop = ClockedLoop()
    yield loop
    loop.close()


def ticket() -> Ticket:
    return Ticket(lambda: None)


async def settle() -> None:
    """Lets everything run that is ready."""
    for _ in range(3):
        await asyncio.sleep(0)


def test_events_come_in_order_and_once(loop: ClockedLoop) -> None:
    """Events from before a wake-up come together; later ones come next time."""

    async def follow() -> None:
        one = ticket()
        one.add(Generated(1))
        one.add(Generated(2))
        one.wake()
        assert await one.next_events() == [Generated(1), Generated(2)]
        waiting = asyncio.ensure_future(one.next_events())
        await settle()
        assert not waiting.done()
        one.add(Generated(3))
        await settle()
        assert not waiting.done()
        one.wake()
        assert await waiting == [Generated(3)]

    loop.run_until_complete(follow())


def test_an_error_is_raised_after_the_events_and_stays(loop: ClockedLoop) -> None:
    """The events before it are not lost, and every later read raises it again."""

    async def follow() -> None:
        one = ticket()
        one.add(Generated(1))
        one.add(ModelFailed("no"))
        one.wake()
        assert await one.next_events() == [Generated(1)]
        for _ in range(2):
            with pytest.raises(ModelFailed):
                await one.next_events()

    loop.run_until_complete(follow())


def test_a_caller_that_left_is_not_woken(loop: ClockedLoop) -> None:
    """A wake-up after the waiting caller was cancelled harms nothing."""

    async def follow() -> None:
        one = ticket()
        waiting = asyncio.ensure_future(one.next_events())
        await settle()
        waiting.cancel()
        await settle()
        one.add(Generated(1))
        one.wake()
        assert await one.next_events() == [Generated(1)]

    loop.run_until_complete(follow())


def test_nothing_is_no_news(loop: ClockedLoop) -> None:
    """A caller that is woken without events goes on waiting."""

    async def follow() -> None:
        one = ticket()
        waiting = asyncio.ensure_future(one.next_events())
        one.wake()
        await settle()
        one.wake()
        await settle()
        assert not waiting.done()
        one.add(Generated(1))
        one.wake()
        assert await waiting == [Generated(1)]

    loop.run_until_complete(follow())


def test_a_ticket_that_was_woken_is_let_go(loop: ClockedLoop) -> None:
    """The pace keeps no ticket of a turn that has ended."""

    async def deliver() -> None:
        pace, one = Pace(0.02), ticket()
        pace.deliver(one, Generated(1), is_first=False)
        pace.release_due()
        assert await one.next_events() == [Generated(1)]
        remembered = weakref.ref(one)
        del one
        gc.collect()
        assert remembered() is None

    loop.run_until_complete(deliver())


def test_tokens_of_a_busy_loop_share_a_wake_up(loop: ClockedLoop) -> None:
    """After a round of 3 ms, tokens wait 6 ms for the next one; a first token and other events do not wait."""

    async def deliver() -> None:
        pace, slow, other = Pace(0.02), ticket(), ticket()
        reader = asyncio.ensure_future(slow.next_events())
        pace.deliver(slow, Generated(1), is_first=True)
        assert await reader == [Generated(1)]

        async def read_slowly() -> list[Event]:
            events = list(await slow.next_events())
            loop.now += 0.003
            return events

        reading = asyncio.ensure_future(read_slowly())
        await settle()
        pace.deliver(slow, Generated(2), is_first=False)
        pace.release_due()  # nothing was sent lately, so it goes at once
        assert await reading == [Generated(2)]
        await settle()
        started, reading = loop.now, asyncio.ensure_future(read_slowly())
        for number in (3, 4):
            pace.deliver(slow, Generated(number), is_first=False)
            pace.release_due()
        await settle()
        assert not reading.done()
        pace.deliver(other, Predicted(()), is_first=False)
        assert await other.next_events() == [Predicted(())]
        assert loop.now == started
        assert await reading == [Generated(3), Generated(4)]
        assert loop.now - 0.003 - started == pytest.approx(0.006)

    loop.run_until_complete(deliver())


def test_no_token_waits_longer_than_the_bound(loop: ClockedLoop) -> None:
    """However long the loop was busy, the wait is at most the bound; a bound of 0 holds nothing back."""

    async def deliver(bound: float) -> float:
        pace, one = Pace(bound), ticket()
        reading = asyncio.ensure_future(one.next_events())
        await settle()
        pace.deliver(one, Generated(1), is_first=False)
        pace.release_due()
        await reading
        loop.now += 0.5  # before the pace can note that all were woken
        released = loop.now - 0.5
        await settle()
        reading = asyncio.ensure_future(one.next_events())
        await settle()
        pace.deliver(one, Generated(2), is_first=False)
        pace.release_due()
        await reading
        return loop.now - released

    assert loop.run_until_complete(deliver(0.02)) == pytest.approx(0.5)
    assert loop.run_until_complete(deliver(0.0)) == pytest.approx(0.5)


def test_a_token_that_comes_while_others_are_sent_waits_no_longer_than_they_take(loop: ClockedLoop) -> None:
    """A step ends before the duration of sending is known: its token does not wait the whole delay."""

    async def deliver() -> None:
        pace, one = Pace(0.02), ticket()
        pace.deliver(one, Generated(1), is_first=False)
        pace.release_due()
        pace.deliver(one, Generated(2), is_first=False)
        pace.release_due()  # in the same round
        assert await one.next_events() == [Generated(1), Generated(2)]
        pace.deliver(one, Generated(3), is_first=False)
        pace.release_due()
        started = loop.now
        assert await one.next_events() == [Generated(3)]
        assert loop.now == started

    loop.run_until_complete(deliver())
