"""Turns of one session come one at a time, in order of arrival; sessions do not wait for each other."""

import asyncio

import pytest

from carousel.errors import Overloaded
from carousel.sessions.order import TurnOrder


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Visits:
    """Callers that hold a session until they are told to leave, and the order in which they got it."""

    def __init__(self, order: TurnOrder) -> None:
        self._order = order
        self.inside: list[str] = []
        self.log: list[str] = []
        self.leave: dict[str, asyncio.Event] = {}

    def come(self, name: str, session_id: str = "s") -> asyncio.Task[None]:
        self.leave[name] = asyncio.Event()
        return asyncio.create_task(self._visit(name, session_id))

    async def _visit(self, name: str, session_id: str) -> None:
        async with self._order.hold(("ann", session_id)):
            self.inside.append(name)
            self.log.append(name)
            try:
                await self.leave[name].wait()
            finally:
                self.inside.remove(name)


async def test_one_at_a_time_in_order_of_arrival() -> None:
    """Each holder is alone, and they follow in order of arrival."""
    visits = Visits(TurnOrder(10))
    tasks = [visits.come(name) for name in "abcd"]
    for name in "abcd":
        await settle()
        assert visits.inside == [name]
        visits.leave[name].set()
    await asyncio.gather(*tasks)
    assert visits.log == list("abcd")


async def test_sessions_do_not_wait_for_each_other() -> None:
    """Holders of different sessions are inside at the same time."""
    visits = Visits(TurnOrder(0))
    tasks = [visits.come(name, session_id=name) for name in "abc"]
    await settle()
    assert visits.inside == list("abc")
    for event in visits.leave.values():
        event.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("max_waiting", [0, 1, 3])
async def test_the_line_has_a_bound(max_waiting: int) -> None:
    """A bounded number may wait beside the holder; the next is refused at once, until one has left."""
    order = TurnOrder(max_waiting)
    visits = Visits(order)
    tasks = [visits.come(str(number)) for number in range(max_waiting + 1)]
    await settle()
    with pytest.raises(Overloaded) as refused:
        async with order.hold(("ann", "s")):
            pytest.fail("the line was full")
    assert refused.value.limit == "max_turns_per_session"
    visits.leave["0"].set()
    await settle()
    tasks.append(visits.come("late"))
    await settle()
    for event in visits.leave.values():
        event.set()
    await asyncio.gather(*tasks)
    assert visits.log[-1] == "late"


async def test_leaving_the_line_leaves_the_order() -> None:
    """A cancelled waiter and a cancelled holder make way, and the rest follow in order."""
    visits = Visits(TurnOrder(10))
    tasks = [visits.come(name) for name in "abcd"]
    await settle()
    tasks[1].cancel()
    tasks[0].cancel()
    await settle()
    assert visits.inside == ["c"]
    visits.leave["c"].set()
    visits.leave["d"].set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results[:2]] == [asyncio.CancelledError] * 2
    assert visits.log == list("acd")


async def test_a_holder_that_fails_lets_the_next_one_in() -> None:
    """An exception inside frees the session."""
    order = TurnOrder(0)
    for _ in range(3):
        with pytest.raises(ValueError, match="oops"):
            async with order.hold(("ann", "s")):
                raise ValueError("oops")


async def test_nothing_is_kept_of_sessions_that_nobody_holds() -> None:
    """When the last caller has left, failed or was cancelled, the session's lock is gone."""
    order = TurnOrder(2)
    visits = Visits(order)
    tasks = [visits.come(name, session_id=name[0]) for name in ("a1", "a2", "b1", "c1", "c2")]
    await settle()
    tasks[1].cancel()
    tasks[3].cancel()
    for event in visits.leave.values():
        event.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order._locks == {}
