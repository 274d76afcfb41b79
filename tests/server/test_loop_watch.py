"""The delay of the event loop can be read, and what held it is reported by name and line."""

import asyncio
import threading
import time

import pytest
import structlog

from carousel import loop_watch
from carousel.loop_watch import LoopWatch
from carousel.tasks import running_task


def hold(seconds: float) -> None:
    secret = "swordfish"
    time.sleep(seconds)  # the subject of this file: it holds the loop
    del secret


async def until(condition: "object") -> None:
    async with asyncio.timeout(10):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.001)


async def test_a_stall_is_measured() -> None:
    """A handler of 60 ms shows as at least 50 ms; beats otherwise come early enough."""
    late: list[float] = []
    async with running_task("watch", LoopWatch(late.append).run, lambda name: None):
        await until(lambda: len(late) >= 3)
        assert min(late) >= 0
        hold(0.06)
        num_before = len(late)
        await until(lambda: len(late) > num_before)
    assert max(late) >= 0.05


async def test_the_offender_is_named_while_it_holds_the_loop() -> None:
    """Each stall has one line, with the function and its line and without its variables."""
    beats: list[float] = []
    with structlog.testing.capture_logs() as lines:
        async with running_task("watch", LoopWatch(beats.append, 0.05).run, lambda name: None):
            for number in (1, 2):
                before = len(beats)
                await until(lambda before=before: len(beats) > before)
                hold(0.3)
                await until(lambda number=number: len(lines) >= number)
        await asyncio.to_thread(_join)
    assert [line["event"] for line in lines] == ["event loop is held"] * 2
    for line in lines:
        place = next(one for one in line["frames"] if one.endswith(" hold"))
        first = hold.__code__.co_firstlineno
        assert place == f"{__name__}:{first + 2} hold"
        assert line["seconds"] >= 0.05
    assert "swordfish" not in str(lines)


async def test_without_the_setting_nobody_looks() -> None:
    """Without it there is no thread and no line; with it, the thread ends with the task."""
    beats: list[float] = []
    async with running_task("watch", LoopWatch(beats.append).run, lambda name: None):
        await until(lambda: beats)
        assert not _threads()
    async with running_task("watch", LoopWatch(beats.append, 1.0).run, lambda name: None):
        await until(_threads)
    await asyncio.to_thread(_join)
    assert not _threads()


def _threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "loop-watch"]


def _join() -> None:
    for thread in _threads():
        thread.join(10)


def test_the_grain_is_what_counts_as_a_defect() -> None:
    """The grain is 10 ms."""
    assert pytest.approx(0.01) == loop_watch._BEAT_SECONDS
