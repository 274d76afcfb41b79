"""A task that dies is started anew, counted and logged; one that ends or is cancelled is not."""

import asyncio
from types import SimpleNamespace

import pytest
import structlog

from carousel import tasks
from carousel.tasks import keep_running, running_task


class Work:
    """Dies so many times, then returns."""

    def __init__(self, num_deaths: int) -> None:
        self.num_deaths = num_deaths
        self.num_runs = 0

    async def __call__(self) -> None:
        self.num_runs += 1
        if self.num_runs <= self.num_deaths:
            raise RuntimeError("swordfish")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Collects the pauses instead of sleeping."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return slept


async def test_a_task_that_dies_is_begun_anew(pauses: list[float]) -> None:
    """Each death is counted, logged without its text, and followed by a pause that doubles up to a bound."""
    work, told = Work(8), list[str]()
    with structlog.testing.capture_logs() as lines:
        await keep_running("sweep", work, told.append)
    assert work.num_runs == 9
    assert told == ["sweep"] * 8
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    assert [(line["event"], line["task"], line["pause_seconds"]) for line in lines][0] == ("task died", "sweep", 1)
    assert [type(line["exc_info"]) for line in lines] == [RuntimeError] * 8


async def test_a_task_that_lived_long_begins_with_a_short_pause(
    pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A death a day makes no later pause longer."""
    moments = iter([0.0, 1.0, 2.0, 3.0, 4.0, 70.0, 71.0, 72.0, 73.0])
    monkeypatch.setattr(tasks, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    await keep_running("sweep", Work(4), lambda name: None)
    assert pauses == [1, 2, 1, 2]


async def test_a_task_that_returns_is_done(pauses: list[float]) -> None:
    """The task ran once and nothing is logged."""
    work = Work(0)
    await keep_running("sweep", work, lambda name: pytest.fail("it did not die"))
    assert (work.num_runs, pauses) == (1, [])


async def test_it_ends_with_its_block() -> None:
    """It is cancelled where it is, even in its pause; no task is left."""
    told: list[str] = []
    async with running_task("wait", asyncio.Event().wait, told.append):  # type: ignore[arg-type]
        await asyncio.sleep(0)
        assert {task.get_name() for task in asyncio.all_tasks()} >= {"wait"}
    async with running_task("die", Work(1), told.append):
        while not told:
            await asyncio.sleep(0)
    assert told == ["die"]
    assert len(asyncio.all_tasks()) == 1
