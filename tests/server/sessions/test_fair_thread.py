"""Work that takes long: in what order owners get the thread, even when they leave."""

import asyncio
import threading
from functools import partial

from carousel.sessions.fair_thread import FairThread


class Desk:
    """A thread that is blocked by its first piece of work until `gate` is set. It notes what ran."""

    def __init__(self) -> None:
        self.thread = FairThread("test")
        self.gate = threading.Event()
        self.has_begun = threading.Event()
        self.ran: list[str] = []

    async def hold(self) -> "asyncio.Task[None]":
        held = asyncio.create_task(self.thread.run("mallory", self._hold))
        await asyncio.to_thread(self.has_begun.wait, 10)
        return held

    def ask(self, owner: str, name: str) -> "asyncio.Task[None]":
        return asyncio.create_task(self.thread.run(owner, partial(self.ran.append, name)))

    def _hold(self) -> None:
        self.has_begun.set()
        assert self.gate.wait(10)


async def test_owners_take_turns() -> None:
    """An owner's many pieces wait for their own turn: another's work runs after one of them, in its own order."""
    desk = Desk()
    held = await desk.hold()
    tasks = [desk.ask("mallory", f"m{number}") for number in range(4)]
    tasks += [desk.ask("bob", "b0"), desk.ask("bob", "b1")]
    await asyncio.sleep(0)
    desk.gate.set()
    await asyncio.gather(held, *tasks)
    assert desk.ran == ["m0", "b0", "m1", "b1", "m2", "m3"]


async def test_work_in_parts_keeps_its_turn() -> None:
    """The parts run in order, with no other work between, and return their results."""
    desk = Desk()
    parts = [partial(divmod, number, 2) for number in range(3)]
    ann = asyncio.create_task(desk.thread.run_parts("ann", [*parts, partial(desk.ran.append, "a")]))
    await asyncio.gather(ann, desk.ask("bob", "b"))
    assert await ann == [(0, 0), (0, 1), (1, 0), None]
    assert desk.ran == ["a", "b"]


async def test_who_goes_away_keeps_nobody_waiting() -> None:
    """Work of a caller that left is not done, whether it waits, is just called or runs."""
    desk = Desk()
    held = await desk.hold()
    waits, called, last = desk.ask("ann", "a"), desk.ask("bob", "b"), desk.ask("cid", "c")
    await asyncio.sleep(0)
    waits.cancel()
    held.cancel()  # bob is called while it runs
    await asyncio.sleep(0)
    called.cancel()
    desk.gate.set()
    async with asyncio.timeout(10):
        await asyncio.gather(held, waits, called, return_exceptions=True)
        await last
        await desk.ask("ann", "again")
    assert desk.ran == ["c", "again"]


async def test_work_that_fails_hands_the_thread_on() -> None:
    """Its error goes to its caller, and the next work runs."""
    desk = Desk()
    failed = asyncio.create_task(desk.thread.run("ann", partial(int, "no number")))
    await asyncio.gather(failed, desk.ask("bob", "b"), return_exceptions=True)
    assert isinstance(failed.exception(), ValueError)
    assert desk.ran == ["b"]
