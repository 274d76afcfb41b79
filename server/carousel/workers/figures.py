"""The metrics under the one address: the supervisor's own, and those of all workers."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, PlatformCollector, ProcessCollector

from carousel.metrics import Metrics
from carousel.web.json_api.figures import read_figures
from carousel.workers.link import Word
from carousel.workers.merging import Merged
from carousel.workers.process import WorkerProcess

_PAGE_SECONDS = 2.0  # for a worker to send its page; later than that, it has counts from before and no gauges
_FRESH_SECONDS = 1.0  # how old figures may be: pages ask every two seconds, and each may ask another worker
_SUPERVISOR = "supervisor"


class Figures:
    """What the address shows. `metrics` are those of a server, of which the supervisor has a few: it counts who asks it
    for what."""

    def __init__(self, num_workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._counted = CollectorRegistry()
        self._own = CollectorRegistry()
        ProcessCollector(registry=self._own)
        PlatformCollector(registry=self._own)
        self.metrics = Metrics(self._counted)
        workers = Gauge("carousel_workers", "Processes that the settings ask for.", registry=self._own)
        workers.set(num_workers)
        self._ready = Gauge("carousel_ready_workers", "Processes that are ready for calls.", registry=self._own)
        self._restarts = Counter(
            "carousel_worker_restarts", "Processes that ended and were started anew.", registry=self._own
        )
        self._ended = Merged()
        self._clock = clock
        self._telling: asyncio.Task[dict[str, Any] | None] | None = None
        self._stale_at = 0.0
        self._thread = ThreadPoolExecutor(1, "metrics")  # whoever asks for a page holds a thread of the common pool

    def worker_restarted(self) -> None:
        self._restarts.inc()

    def worker_ended(self, page: str) -> None:
        """`page` is the last one that it has sent; empty if it was never asked."""
        if page:
            self._ended.add(page, "", counts_only=True)

    async def tell(self, workers: Sequence[WorkerProcess | None]) -> dict[str, Any] | None:
        """Returns what `read_figures` makes of all, up to a second old; None where no worker has sent its page. All who
        ask meanwhile share one answer."""
        if self._telling is None or (self._telling.done() and self._clock() >= self._stale_at):
            self._telling = asyncio.create_task(self._read_all(workers), name="figures")
        return await asyncio.shield(self._telling)

    async def _read_all(self, workers: Sequence[WorkerProcess | None]) -> dict[str, Any] | None:
        try:
            merged, num_pages = await self._collect(workers)
            if not num_pages:
                return None
            return await asyncio.get_running_loop().run_in_executor(self._thread, read_figures, merged)
        finally:
            self._stale_at = self._clock() + _FRESH_SECONDS

    async def collect(self, workers: Sequence[WorkerProcess | None]) -> Merged:
        """Asks all workers at once, each by its number in the sequence. A thread reads what they send: it takes tens of
        milliseconds."""
        return (await self._collect(workers))[0]

    async def _collect(self, workers: Sequence[WorkerProcess | None]) -> tuple[Merged, int]:
        """Also returns how many sent their page in time."""
        self._ready.set(sum(worker is not None and worker.is_ready for worker in workers))
        alive = {str(number): one for number, one in enumerate(workers) if one is not None and one.has_started}
        answered = await asyncio.gather(*(worker.ask(Word.PAGE, _PAGE_SECONDS) for worker in alive.values()))
        # From here to the thread nothing awaits: a worker that ends meanwhile counts once.
        merged = self._ended.copy()
        pages = [
            (number, worker.page, came)
            for (number, worker), came in zip(alive.items(), answered, strict=True)
            if worker.page and worker is workers[int(number)]
        ]
        ours = [*self._own.collect()], [*self._counted.collect()]
        reading = asyncio.get_running_loop().run_in_executor(self._thread, _merge, merged, pages, *ours)
        return await reading, sum(answered)


def _merge(
    merged: Merged, pages: Sequence[tuple[str, str, bool]], own: Iterable[Metric], counted: Iterable[Metric]
) -> Merged:
    for number, page, came in pages:
        merged.add(page, number, counts_only=not came)
    merged.add(counted, _SUPERVISOR, counts_only=True)
    merged.add(own, _SUPERVISOR)
    return merged
