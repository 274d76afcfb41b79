"""Work is let into the event loop a little in each round, and to each owner as much as to any other, however many
streams bring it."""

import asyncio
import collections
import contextlib
import time

from carousel.sessions.gate import Gate


class Rounds:
    """Counts those of the event loop, and what was done in each."""

    def __init__(self) -> None:
        self.number = 0
        self.done: list[collections.Counter[str]] = [collections.Counter()]

    async def __aenter__(self) -> "Rounds":
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._task.cancel()

    def note(self, owner: str, cost: float = 1.0) -> None:
        self.done[-1][owner] += cost  # type: ignore[assignment]

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.done.append(collections.Counter())


async def work(gate: Gate, rounds: Rounds, owner: str, cost: float, count: int) -> None:
    for _ in range(count):
        await gate.enter(owner, cost)
        rounds.note(owner, cost)


async def until_quiet(gate: Gate) -> None:
    while gate._is_round_due:
        await asyncio.sleep(0)


async def test_a_round_has_a_bounded_amount_of_work() -> None:
    """Of all streams together, and at least so much that nobody starves."""
    gate = Gate(10.0)
    async with Rounds() as rounds:
        await asyncio.gather(*(work(gate, rounds, "ann", 4.0, 25) for _ in range(8)))
    amounts = [counter["ann"] for counter in rounds.done]
    assert max(amounts) <= 12  # what is begun is done
    assert sum(amounts) == 800
    assert sum(1 for one in amounts if not one) <= 3


async def test_nobody_waits_for_nobody() -> None:
    """While there is room in the round, whoever comes is let in at once."""
    gate = Gate(10.0)
    async with Rounds() as rounds:
        for _ in range(3):
            before = len(rounds.done)
            await work(gate, rounds, "ann", 3.0, 3)
            assert len(rounds.done) == before
            await until_quiet(gate)
    assert not gate._ends


async def test_owners_have_equal_parts_however_many_streams_they_have() -> None:
    """Of eighty streams and four, each owner does half; and one stream alone has its piece in every round."""
    gate = Gate(10.0)
    async with Rounds() as rounds:
        crowd = [asyncio.create_task(work(gate, rounds, "ann", 4.0, 50)) for _ in range(80)]
        await asyncio.sleep(0)
        await asyncio.gather(*(work(gate, rounds, "bob", 4.0, 50) for _ in range(4)))
        done = sum(rounds.done, collections.Counter())
        assert done["bob"] == 800
        assert done["ann"] <= 860
        before = len(rounds.done)
        await work(gate, rounds, "bob", 4.0, 50)
        assert len(rounds.done) <= before + 52
        await asyncio.gather(*crowd)


async def test_who_had_nothing_comes_next() -> None:
    """Whoever comes with one piece waits for one round, beside many owners who each want much."""
    gate = Gate(8.0)
    async with Rounds() as rounds:
        crowd = [asyncio.create_task(work(gate, rounds, f"o{n}", 4.0, 100)) for n in range(20)]
        for _ in range(50):
            await asyncio.sleep(0)
        for _ in range(5):
            before = len(rounds.done)
            await gate.enter("bob", 4.0)
            assert len(rounds.done) <= before + 20 * 4 / 8 + 2
            await asyncio.sleep(0)
        for one in crowd:
            one.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)


async def test_what_is_charged_afterwards_is_paid_by_its_owner() -> None:
    """Work of which more came than was said gives the others the next rounds, also when its owner waits already."""
    gate = Gate(10.0)
    async with Rounds() as rounds:

        async def misjudge() -> None:
            while True:
                await gate.enter("ann", 1.0)
                gate.charge("ann", 19.0)
                rounds.note("ann", 20.0)

        crowd = [asyncio.create_task(misjudge()) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.gather(*(work(gate, rounds, "bob", 5.0, 40) for _ in range(8)))
        for one in crowd:
            one.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
    done = sum(rounds.done, collections.Counter())
    assert done["ann"] <= done["bob"] + 3 * 20


async def test_what_was_not_done_is_given_back() -> None:
    """A round has room for as much as is done, not for as much as was said."""
    gate = Gate(10.0)
    async with Rounds() as rounds:
        for _ in range(9):
            await gate.enter("ann", 16.0)
            gate.charge("ann", -15.0)
        assert len(rounds.done) == 1


async def test_a_long_past_is_not_held_against_anybody() -> None:
    """Who has worked alone for long, and who comes anew, share from then on."""
    gate = Gate(10.0)
    async with Rounds() as rounds:
        old = asyncio.create_task(work(gate, rounds, "ann", 5.0, 2000))
        for _ in range(200):
            await asyncio.sleep(0)
        before = sum(rounds.done, collections.Counter())["ann"]
        await work(gate, rounds, "bob", 5.0, 100)
        done = sum(rounds.done, collections.Counter())
        assert done["ann"] - before >= 450
        old.cancel()
        await asyncio.gather(old, return_exceptions=True)


async def test_who_has_given_up_costs_nothing() -> None:
    """A cancelled piece is passed over."""
    gate = Gate(10.0)
    async with Rounds() as rounds:
        waiting = [asyncio.create_task(work(gate, rounds, "ann", 10.0, 1)) for _ in range(100)]
        await asyncio.sleep(0)
        for one in waiting[1:99]:
            one.cancel()
        await gate.enter("bob", 1.0)
        await asyncio.gather(*waiting, return_exceptions=True)
        assert sum(rounds.done, collections.Counter()) == {"ann": 20}
        assert len(rounds.done) < 8
        await until_quiet(gate)
    assert not gate._waiting
    assert not gate._starts


async def test_owners_who_have_gone_are_forgotten() -> None:
    """Also where there is never a quiet round."""
    gate = Gate(10.0)

    async def press() -> None:
        while True:
            await gate.enter("ann", 5.0)

    pressing = [asyncio.create_task(press()) for _ in range(3)]
    for number in range(10_000):
        gate.charge(f"o{number}", 0.001)
        if number % 10 == 0:
            await asyncio.sleep(0)
    assert len(gate._ends) <= 2100
    for one in pressing:
        one.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*pressing)


async def test_a_busy_gate_does_not_hold_the_loop() -> None:
    """A timer beside it is on time."""
    gate = Gate(10.0)

    async def press() -> None:
        while True:
            await gate.enter("ann", 5.0)

    pressing = [asyncio.create_task(press()) for _ in range(50)]
    started = time.monotonic()
    await asyncio.wait_for(asyncio.sleep(0.01), 5)
    assert time.monotonic() < started + 2
    for one in pressing:
        one.cancel()
    await asyncio.gather(*pressing, return_exceptions=True)
