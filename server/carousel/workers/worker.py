"""The worker's side: a server without an address for operators, which does as its supervisor says and dies with it."""

import asyncio
import ctypes
import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest

from carousel import logs
from carousel.app import Running, running, until_stopped
from carousel.errors import CarouselError, FiguresUnavailable
from carousel.settings import Settings
from carousel.signals import stop_signal
from carousel.workers.link import Link, Word

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_ORPHANED = 1
FIGURES_SECONDS = 5.0  # for the supervisor to ask all


def die_with(supervisor: int) -> None:
    """From now on, the kernel kills this process when the process that started it dies, whatever it does then.
    `supervisor` is that one's id."""
    with suppress(OSError, AttributeError):  # not Linux: the link tells it too, as long as the event loop runs
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != supervisor:  # it died before
        os._exit(_ORPHANED)


async def work(bundle: Path, settings: Settings, end: socket.socket, settle: Callable[[], None]) -> None:
    """Serves until the supervisor says so or a signal comes, then drains. Calls `settle` once, when ready. Raises
    CarouselError when it cannot start, after it has told the supervisor why."""
    logs.watch_loop(asyncio.get_running_loop())
    link = await Link.open(end)
    with stop_signal() as stopped:
        clerk = Clerk(link, stopped)
        answering = asyncio.create_task(clerk.answer(), name="link")
        try:
            async with running(bundle, settings, of_all=clerk.ask_figures) as server:
                settle()
                clerk.server = server
                link.send(Word.STARTED, provider=server.provider)
                await until_stopped(stopped, server.engine)
        except CarouselError as error:
            link.send(Word.FAILED, why=str(error))
            raise
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
            link.close()


class Clerk:
    """Answers the supervisor, and asks it. `server` is set when there is one."""

    def __init__(self, link: Link, stopped: asyncio.Event) -> None:
        """`stopped` is set when the supervisor says that the worker shall drain."""
        self.server: Running | None = None
        self._link = link
        self._stopped = stopped
        self._thread = ThreadPoolExecutor(1, "metrics")  # that requests of callers cannot fill
        self._writing: asyncio.Task[None] | None = None
        self._figures: asyncio.Future[Any] | None = None  # while they are asked for

    async def answer(self) -> None:
        """Ends the process at once when the supervisor is gone: nobody would end it any more."""
        try:
            while (message := await self._link.read()) is not None:
                if (word := Word(message["word"])) is Word.FIGURES:
                    self._receive(message["figures"])
                else:
                    self._obey(word)
        finally:
            if self._writing is not None:
                self._writing.cancel()
            self._thread.shutdown(wait=False)
        os._exit(_ORPHANED)

    async def ask_figures(self) -> Any:
        """Returns the figures of all workers. Who asks meanwhile gets the same. Raises FiguresUnavailable when the
        supervisor does not answer or has none; the next caller asks again."""
        if self._figures is None:
            self._figures = asyncio.get_running_loop().create_future()
            self._link.send(Word.FIGURES)
        asked = self._figures
        try:
            figures = await asyncio.wait_for(asyncio.shield(asked), FIGURES_SECONDS)
        except TimeoutError:
            figures = None
            if self._figures is asked:
                self._figures = None
        if figures is None:
            raise FiguresUnavailable("no worker has told its figures in time")
        return figures

    def _receive(self, figures: Any) -> None:
        asked, self._figures = self._figures, None
        if asked is not None:  # it may come too late
            asked.set_result(figures)

    def _obey(self, word: Word) -> None:
        if word is Word.DRAIN:
            self._stopped.set()
        elif self.server is None:
            self._link.send(word, is_ready=False, text="not ready", page="# EOF\n")
        elif word is Word.STATE:
            readiness = self.server.readiness
            self._link.send(word, is_ready=readiness.is_ready, text=readiness.text)
        elif word is Word.PAGE and (self._writing is None or self._writing.done()):
            self._writing = asyncio.create_task(self._send_page(self.server.registry), name="page")

    async def _send_page(self, registry: CollectorRegistry) -> None:
        """A task beside the reader, which may be told to drain meanwhile."""
        page = await asyncio.get_running_loop().run_in_executor(self._thread, _write_page, registry)
        self._link.send(Word.PAGE, page=page)


def _write_page(registry: CollectorRegistry) -> str:
    page: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return page.decode()
