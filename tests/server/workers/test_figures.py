"""One page of all workers, while they answer, are silent or die."""

import asyncio
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest as write_text
from prometheus_client.openmetrics.exposition import generate_latest

from carousel.metrics import Metrics
from carousel.workers.figures import Figures
from carousel.workers.link import Word
from carousel.workers.merging import Merged


def do_nothing() -> None:
    """Nobody dies."""


class FakeWorker(SimpleNamespace):
    """Counts its own tokens, and answers unless it is silent. `meanwhile` runs while it is asked."""

    def __init__(self, num_tokens: int, *, is_silent: bool = False) -> None:
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.count(num_tokens)
        super().__init__(page="", is_ready=True, has_started=True, is_silent=is_silent, meanwhile=do_nothing)

    def count(self, num_tokens: int) -> None:
        self.metrics.tokens_generated(num_tokens, 1.0, is_first=True)
        self.metrics.num_busy_lanes(1)

    async def ask(self, word: Word, seconds: float) -> bool:
        assert word is Word.PAGE
        if not self.is_silent:
            page: bytes = generate_latest(self.registry)  # type: ignore[no-untyped-call]
            self.page = page.decode()
        self.meanwhile()
        return not self.is_silent


def read(merged: Merged, name: str) -> float | None:
    lines = [line.rpartition(" ") for line in write_text(merged).decode().splitlines()]
    return next((float(value) for begin, _, value in lines if begin == name), None)


TOKENS = "carousel_generated_tokens_total"


async def collect(figures: Figures, *workers: Any) -> Merged:
    return await figures.collect(list(workers))


async def test_all_workers_are_on_the_page() -> None:
    """With the supervisor's own; a place without a worker has none."""
    figures = Figures(3)
    figures.worker_restarted()
    merged = await collect(figures, FakeWorker(3), None, FakeWorker(4))
    assert read(merged, TOKENS) == 7
    assert (read(merged, "carousel_workers"), read(merged, "carousel_ready_workers")) == (3, 2)
    assert read(merged, "carousel_worker_restarts_total") == 1
    assert read(merged, 'process_cpu_seconds_total{worker="supervisor"}') is not None


async def test_workers_are_told_the_figures_of_all() -> None:
    """All who ask within a second get the same, for which each worker is asked once; after it they get new ones."""
    now = 10.0
    figures, workers = Figures(2, lambda: now), [FakeWorker(3), FakeWorker(4)]
    asked: list[Any] = []
    workers[0].meanwhile = lambda: asked.append(1)
    told = await asyncio.gather(*(figures.tell(workers) for _ in range(50)))  # type: ignore[arg-type]
    assert [one["generated_tokens"] for one in told if one] == [7] * 50
    workers[1].count(5)
    now = 10.9
    assert (await tell(figures, *workers))["generated_tokens"] == 7
    assert len(asked) == 1
    now = 11.0
    assert (await tell(figures, *workers))["generated_tokens"] == 12
    assert len(asked) == 2


async def test_without_a_page_there_are_no_figures() -> None:
    """Zeros would look like a store that is away. A worker that is starting is not asked."""
    figures = Figures(2)
    silent, starting = FakeWorker(3, is_silent=True), FakeWorker(4)
    starting.has_started = False
    assert await figures.tell([silent, starting, None]) is None  # type: ignore[list-item]
    assert starting.page == ""


async def test_one_who_gives_up_takes_nothing_from_the_others() -> None:
    """The answer is for all who wait."""
    figures, worker = Figures(1), FakeWorker(3)
    first, second = (asyncio.create_task(tell(figures, worker)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second)["generated_tokens"] == 3
    assert first.cancelled() or (await asyncio.gather(first, return_exceptions=True))


async def tell(figures: Figures, *workers: Any) -> dict[str, Any]:
    told = await figures.tell(list(workers))
    assert told is not None
    return told


async def test_what_the_supervisor_refuses_is_counted_with_the_rest() -> None:
    """It asks who calls, too; its other series are those of a server that does nothing, and are left out."""
    figures, worker = Figures(1), FakeWorker(1)
    figures.metrics.refused("unauthenticated")
    worker.metrics.refused("unauthenticated")
    merged = await collect(figures, worker)
    assert read(merged, 'carousel_refusals_total{reason="unauthenticated"}') == 2
    assert read(merged, 'carousel_steps_in_event_loop{worker="supervisor"}') is None


async def test_a_silent_worker_has_the_counts_from_before() -> None:
    """What it has in use, nobody knows."""
    figures, worker = Figures(1), FakeWorker(5)
    assert read(await collect(figures, worker), "carousel_busy_lanes") == 1
    worker.count(5)
    worker.is_silent = True
    merged = await collect(figures, worker)
    assert (read(merged, TOKENS), read(merged, "carousel_busy_lanes")) == (5, None)


async def test_a_worker_that_dies_counts_once() -> None:
    """Also where it dies between its answer and the page; its successor begins at nothing, and no sum falls."""
    figures, worker = Figures(1), FakeWorker(5)
    workers: list[Any] = [worker]

    def die() -> None:
        workers[0] = FakeWorker(0)
        figures.worker_ended(worker.page)

    worker.meanwhile = die
    for expected in (5, 5):
        assert read(await figures.collect(workers), TOKENS) == expected
    workers[0].count(2)
    assert read(await figures.collect(workers), TOKENS) == 7


async def test_a_worker_that_was_never_asked_leaves_nothing() -> None:
    """Nobody has seen what it counted."""
    figures = Figures(1)
    figures.worker_ended("")
    assert read(await collect(figures, None), TOKENS) == 0
