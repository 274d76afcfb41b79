"""What the supervisor and a worker say to each other over their pair of sockets."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, Metric

from carousel.errors import FiguresUnavailable
from carousel.metrics import Metrics
from carousel.workers import worker
from carousel.workers.link import Link, Word
from carousel.workers.worker import Clerk


async def pair() -> tuple[Link, Link]:
    one, other = socket.socketpair()
    return await Link.open(one), await Link.open(other)


async def test_a_message_arrives_whole() -> None:
    """However large a page is; and an end is seen as one, also in the middle of a line."""
    ours, theirs = await pair()
    ours.send(Word.PAGE, page="é" * 2**20)
    assert await theirs.read() == {"word": "page", "page": "é" * 2**20}
    ours._writer.write(b'{"word": "sta')
    ours.close()
    assert await theirs.read() is None
    theirs.close()
    theirs.send(Word.STATE)  # to nobody


async def test_a_worker_answers_what_it_is_asked() -> None:
    """Before its server is there, too; the order to drain is for whoever waits for it."""
    ours, theirs = await pair()
    stopped, registry = asyncio.Event(), CollectorRegistry()
    clerk = Clerk(theirs, stopped)
    answering = asyncio.create_task(clerk.answer())
    ours.send(Word.STATE)
    assert await ours.read() == {"word": "state", "is_ready": False, "text": "not ready", "page": "# EOF\n"}
    Metrics(registry).session_created()
    readiness = SimpleNamespace(is_ready=True, text="ready; but the store is slow")
    clerk.server = SimpleNamespace(readiness=readiness, registry=registry)  # type: ignore[assignment]
    ours.send(Word.STATE)
    assert await ours.read() == {"word": "state", "is_ready": True, "text": readiness.text}
    ours.send(Word.PAGE)
    answer = await ours.read()
    assert answer is not None
    assert "carousel_sessions_created_total 1.0\n" in answer["page"]
    ours.send(Word.DRAIN)
    await asyncio.wait_for(stopped.wait(), 20)
    answering.cancel()
    await asyncio.gather(answering, return_exceptions=True)
    ours.close()
    theirs.close()


async def test_a_worker_asks_for_the_figures_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers at the same time share one question. A supervisor that is silent is asked again by the next one, and its
    late answer serves that one; who joined the first question and gives up later takes nothing from it."""
    async with answering() as (ours, clerk):
        two = [asyncio.create_task(clerk.ask_figures()) for _ in range(2)]
        assert await ours.read() == {"word": "figures"}
        ours.send(Word.FIGURES, figures={"n": 1})
        assert await asyncio.gather(*two) == [{"n": 1}] * 2
        monkeypatch.setattr(worker, "FIGURES_SECONDS", 0.05)
        first = asyncio.create_task(clerk.ask_figures())
        await asyncio.sleep(0)
        monkeypatch.setattr(worker, "FIGURES_SECONDS", 0.1)
        joined = asyncio.create_task(clerk.ask_figures())
        with pytest.raises(FiguresUnavailable):
            await first
        monkeypatch.setattr(worker, "FIGURES_SECONDS", 20)
        third = asyncio.create_task(clerk.ask_figures())
        with pytest.raises(FiguresUnavailable):
            await joined
        assert [await ours.read() for _ in range(2)] == [{"word": "figures"}] * 2
        ours.send(Word.FIGURES, figures={"n": 2})
        ours.send(Word.FIGURES, figures={"n": 3})  # nobody waits for it
        assert await third == {"n": 2}
        ours.send(Word.STATE)
        assert (await ours.read() or {})["word"] == "state"


async def test_no_figures_are_an_error() -> None:
    """The supervisor says so where no worker has told its own."""
    async with answering() as (ours, clerk):
        asking = asyncio.create_task(clerk.ask_figures())
        assert await ours.read() == {"word": "figures"}
        ours.send(Word.FIGURES, figures=None)
        with pytest.raises(FiguresUnavailable):
            await asking


async def test_a_page_holds_up_no_order() -> None:
    """While the metrics are written, also where callers hold all threads of the common pool, the worker tells its state
    and hears that it shall drain."""
    registry, may_go_on, is_writing = CollectorRegistry(), threading.Event(), threading.Event()

    class Slow:
        def collect(self) -> list[Metric]:
            is_writing.set()
            assert may_go_on.wait(20)
            return []

    registry.register(Slow())
    async with answering() as (ours, clerk):
        readiness = SimpleNamespace(is_ready=True, text="ready")
        clerk.server = SimpleNamespace(readiness=readiness, registry=registry)  # type: ignore[assignment]
        held = [asyncio.create_task(asyncio.to_thread(may_go_on.wait, 20)) for _ in range(40)]
        ours.send(Word.PAGE)
        while not is_writing.is_set():
            await asyncio.sleep(0.01)
        ours.send(Word.STATE)
        assert (await ours.read() or {})["word"] == "state"
        ours.send(Word.DRAIN)
        await asyncio.wait_for(clerk._stopped.wait(), 20)
        may_go_on.set()
        assert (await ours.read() or {})["word"] == "page"
        await asyncio.gather(*held)


@contextlib.asynccontextmanager
async def answering() -> AsyncIterator[tuple[Link, Clerk]]:
    """Yields the supervisor's end, and the clerk who answers it."""
    ours, theirs = await pair()
    clerk = Clerk(theirs, asyncio.Event())
    task = asyncio.create_task(clerk.answer())
    try:
        yield ours, clerk
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        ours.close()
        theirs.close()


ORPHAN = """
import asyncio, socket, sys
from carousel.workers.link import Link
from carousel.workers.worker import Clerk
async def main():
    await Clerk(await Link.open(socket.socket(fileno=int(sys.argv[1]))), asyncio.Event()).answer()
asyncio.run(main())
"""


def test_a_worker_whose_supervisor_is_gone_ends() -> None:
    """The closed link says so, where the kernel does not."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", ORPHAN, str(theirs.fileno())]
    with theirs, subprocess.Popen(command, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        ours.close()
        assert process.wait(30) == 1


HANGS = """
import os, time
from carousel.workers.worker import die_with
die_with(os.getppid())
print(os.getpid(), flush=True)
time.sleep(60)
"""
STARTS_IT = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {HANGS!r}]); time.sleep(60)"


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_the_kernel_ends_a_worker_with_its_supervisor() -> None:
    """Also one whose event loop hangs, which reads no link."""
    with subprocess.Popen([sys.executable, "-c", STARTS_IT], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        supervisor.kill()
        while lives(pid):
            time.sleep(0.01)


def test_a_worker_that_comes_too_late_does_not_begin() -> None:
    """Its supervisor died before the kernel was asked to say so."""
    code = "from carousel.workers.worker import die_with; die_with(1 << 22); print('began')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
