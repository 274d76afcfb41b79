"""The worker's side: a server without an address for operators, which does as its supervisor says and dies with it."""

import asyncio
import ctypes
import os
import signal
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from prometheus_client import Metric

from carousel import logs
from carousel.app import Running, running, until_stopped
from carousel.errors import CarouselError
from carousel.settings import Settings
from carousel.signals import stop_signal
from carousel.workers.figures import write_page
from carousel.workers.link import Link, Word
from carousel.workers.merging import parse

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_ORPHANED = 1
ALL_SECONDS = 10.0  # for the supervisor to ask all


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
            async with running(bundle, settings, of_all=OfAll(clerk)) as server:
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
    """Answers the supervisor. `server` is set when there is one."""

    def __init__(self, link: Link, stopped: asyncio.Event) -> None:
        """`stopped` is set when the supervisor says that the worker shall drain."""
        self.server: Running | None = None
        self._link = link
        self._stopped = stopped
        self._page_of_all: asyncio.Future[str] | None = None  # while it is asked for

    async def answer(self) -> None:
        """Ends the process at once when the supervisor is gone: nobody would end it any more."""
        while (message := await self._link.read()) is not None:
            if (word := Word(message["word"])) is Word.PAGE_OF_ALL:
                self._receive(message["page"])
            else:
                await self._obey(word)
        os._exit(_ORPHANED)

    async def ask_for_all(self) -> str:
        """Returns the metrics of all workers, in OpenMetrics. Who asks meanwhile gets the same. Raises TimeoutError
        when the supervisor does not answer; the next caller asks again."""
        if self._page_of_all is None:
            self._page_of_all = asyncio.get_running_loop().create_future()
            self._link.send(Word.PAGE_OF_ALL)
        try:
            return await asyncio.wait_for(asyncio.shield(self._page_of_all), ALL_SECONDS)
        except TimeoutError:
            self._page_of_all = None
            raise

    def _receive(self, page: str) -> None:
        asked, self._page_of_all = self._page_of_all, None
        if asked is not None:  # it may come too late
            asked.set_result(page)

    async def _obey(self, word: Word) -> None:
        if word is Word.DRAIN:
            self._stopped.set()
        elif self.server is None:
            self._link.send(word, is_ready=False, text="not ready", page="# EOF\n")
        elif word is Word.STATE:
            readiness = self.server.readiness
            self._link.send(word, is_ready=readiness.is_ready, text=readiness.text)
        elif word is Word.PAGE:
            self._link.send(word, page=await asyncio.to_thread(write_page, self.server.registry))


class OfAll:
    """The metrics of all workers. A Collector; its `collect` runs in a thread beside the event loop, which asks the
    supervisor meanwhile. Raises TimeoutError when that does not answer."""

    def __init__(self, clerk: Clerk) -> None:
        self._clerk = clerk
        self._loop = asyncio.get_running_loop()

    def collect(self) -> Iterable[Metric]:
        return parse(asyncio.run_coroutine_threadsafe(self._clerk.ask_for_all(), self._loop).result())
