"""What the supervisor and a worker say to each other over their pair of sockets."""

import asyncio
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from carousel.metrics import Metrics
from carousel.workers import worker
from carousel.workers.figures import write_page
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


async def test_a_worker_asks_for_the_metrics_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers at the same time share one question. A supervisor that is silent is asked again by the next one, and its
    late answer serves that one."""
    ours, theirs = await pair()
    clerk = Clerk(theirs, asyncio.Event())
    answering = asyncio.create_task(clerk.answer())
    two = [asyncio.create_task(clerk.ask_for_all()) for _ in range(2)]
    assert await ours.read() == {"word": "page of all"}
    ours.send(Word.PAGE_OF_ALL, page="one")
    assert await asyncio.gather(*two) == ["one", "one"]
    monkeypatch.setattr(worker, "ALL_SECONDS", 0.01)
    with pytest.raises(TimeoutError):
        await clerk.ask_for_all()
    monkeypatch.setattr(worker, "ALL_SECONDS", 20)
    third = asyncio.create_task(clerk.ask_for_all())
    assert [await ours.read() for _ in range(2)] == [{"word": "page of all"}] * 2
    ours.send(Word.PAGE_OF_ALL, page="two")
    ours.send(Word.PAGE_OF_ALL, page="nobody waits for this one")
    assert await third == "two"
    ours.send(Word.STATE)
    assert (await ours.read() or {})["word"] == "state"
    answering.cancel()
    await asyncio.gather(answering, return_exceptions=True)
    ours.close()
    theirs.close()


async def test_the_metrics_of_all_are_read_in_a_thread() -> None:
    """Whoever collects them needs no more than a Collector."""
    ours, theirs = await pair()
    clerk, registry = Clerk(theirs, asyncio.Event()), CollectorRegistry()
    answering = asyncio.create_task(clerk.answer())
    Metrics(registry).session_created()
    of_all = worker.OfAll(clerk)
    collecting = asyncio.create_task(asyncio.to_thread(lambda: list(of_all.collect())))
    assert await ours.read() == {"word": "page of all"}
    ours.send(Word.PAGE_OF_ALL, page=write_page(registry))
    samples = {sample.name: sample.value for family in await collecting for sample in family.samples}
    assert samples["carousel_sessions_created_total"] == 1
    answering.cancel()
    await asyncio.gather(answering, return_exceptions=True)
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
