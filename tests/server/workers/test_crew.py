"""Workers that end are started again; those that cannot start end the whole; none outlives the drain."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from carousel.workers import crew as crew_module
from carousel.workers import process
from carousel.workers.crew import MAX_FAILED_STARTS, Collapse, Crew
from carousel.workers.link import Word
from carousel.workers.process import Orders, WorkerProcess

HANGS = "import time; time.sleep(600)"
STARTS = """
import json, socket, sys
link = socket.socket(fileno=int(sys.argv[1]))
def say(**facts):
    link.sendall(json.dumps(facts).encode() + b"\\n")
say(word="started", provider="cpu")
"""
SPEAKS = """
for line in link.makefile():
    word = json.loads(line)["word"]
    if word == "state":
        say(word=word, is_ready=True, text="ready")
    if word == "drain":
        {drain}
"""
DRAINS, STAYS = STARTS + SPEAKS.format(drain="break"), STARTS + SPEAKS.format(drain="pass")
SAYS_WHY = """
import json, socket, sys
link = socket.socket(fileno=int(sys.argv[1]))
link.sendall(json.dumps(dict(word="failed", why="the bundle is bad")).encode() + b"\\n")
sys.exit(2)
"""


class Ears:
    """Notes what the crew tells."""

    def __init__(self) -> None:
        self.pages: list[str] = []
        self.num_restarts = 0

    def worker_ended(self, page: str) -> None:
        self.pages.append(page)

    def worker_restarted(self) -> None:
        self.num_restarts += 1

    async def tell(self, workers: Sequence[WorkerProcess | None]) -> dict[str, Any]:
        """Asks all, as the real one does, and says how many answered."""
        answered = [await one.ask(Word.PAGE, 20) for one in workers if one is not None]
        return {"text": f"of {sum(answered)} workers"}


@contextlib.asynccontextmanager
async def crew_of(monkeypatch: pytest.MonkeyPatch, script: str, size: int = 2) -> AsyncIterator[tuple[Crew, Ears]]:
    """Its workers run the script. Whatever the test does, none is left."""
    monkeypatch.setattr(process, "_COMMAND", ("-c", script))
    ears = Ears()
    crew = Crew(Orders(Path("nowhere"), {}), size, ears, first_pause=0.01)
    crew.start()
    try:
        yield crew, ears
    finally:
        if not crew.is_draining:
            await crew.drain(0)


def ours(crew: Crew) -> list[WorkerProcess]:
    return [worker for worker in crew.workers if worker is not None]


async def until_started(crew: Crew) -> None:
    await asyncio.wait_for(crew.have_started.wait(), 20)


async def test_all_start_and_all_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ready from the first start to the drain, and says how many are."""
    async with crew_of(monkeypatch, DRAINS) as (crew, ears):
        assert not crew.is_ready
        assert crew.text.startswith("not ready; 0 of 2 workers are ready; worker 0: starting; worker 1: ")
        await until_started(crew)
        assert (crew.is_ready, crew.text) == (True, "ready; 2 of 2 workers are ready")
        assert await crew.drain(20) == 0
        assert not crew.is_ready
    assert ears.num_restarts == 0
    assert crew.workers == [None, None]


async def test_what_dies_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others make the server ready meanwhile."""
    async with crew_of(monkeypatch, DRAINS) as (crew, ears):
        await until_started(crew)
        first, second = ours(crew)
        first.kill()
        while crew.workers[0] is first:
            await asyncio.sleep(0.01)
        assert crew.is_ready
        while crew.num_ready < 2:
            await asyncio.sleep(0.01)
        assert ours(crew)[1] is second
        assert ours(crew)[0].pid != first.pid
    assert ears.num_restarts == 1


async def test_what_never_starts_ends_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own exit code, after a few attempts."""
    async with crew_of(monkeypatch, "raise SystemExit(7)", size=1) as (crew, ears):
        collapse = await asyncio.wait_for(crew.collapse, 60)
    assert collapse == Collapse(7, "worker 0 does not start: exit code 7")
    assert ears.num_restarts == MAX_FAILED_STARTS - 1


async def test_what_a_signal_kills_at_the_start_has_no_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory, for example."""
    async with crew_of(monkeypatch, "import os; os.kill(os.getpid(), 9)", size=1) as (crew, _):
        assert await asyncio.wait_for(crew.collapse, 60) == Collapse(1, "worker 0 does not start: signal 9")


async def test_what_is_known_to_be_wrong_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker says what it is."""
    async with crew_of(monkeypatch, SAYS_WHY) as (crew, ears):
        assert await asyncio.wait_for(crew.collapse, 60) == Collapse(2, "the bundle is bad")
    assert ears.num_restarts == 0


async def test_what_cannot_start_again_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store may be away for a while: the worker is tried again and again, and the other one stays."""
    async with crew_of(monkeypatch, DRAINS) as (crew, ears):
        await until_started(crew)
        other = crew.workers[1]
        monkeypatch.setattr(process, "_COMMAND", ("-c", SAYS_WHY))
        ours(crew)[0].kill()
        async with asyncio.timeout(60):
            while ears.num_restarts < MAX_FAILED_STARTS + 2:
                await asyncio.sleep(0.01)
        assert not crew.collapse.done()
        assert crew.workers[1] is other


async def test_a_worker_that_nobody_keeps_ends_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect of the supervisor is no silence. Thousands of short lives are none."""
    assert min(0.5 * 2 ** min(5000, crew_module._MAX_DOUBLINGS), 30.0) == 30.0

    def fail(page: str) -> None:
        raise RuntimeError("planted")

    async with crew_of(monkeypatch, DRAINS) as (crew, ears):
        await until_started(crew)
        ears.worker_ended = fail  # type: ignore[method-assign]
        ours(crew)[0].kill()
        assert (await asyncio.wait_for(crew.collapse, 20)).why.endswith("a defect of the supervisor")


async def test_a_start_that_hangs_does_not_hold_a_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs no turn, so nothing is lost."""
    async with crew_of(monkeypatch, HANGS) as (crew, _):
        while len(ours(crew)) < 2:
            await asyncio.sleep(0.01)
        started = time.monotonic()
        assert await crew.drain(100) == 0
    assert time.monotonic() - started < 20


async def test_who_does_not_drain_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the exit code says so."""
    async with crew_of(monkeypatch, STAYS) as (crew, _):
        await until_started(crew)
        assert await crew.drain(0.2) == 1
    assert crew.workers == [None, None]


async def test_a_worker_killed_while_it_drains_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not started again."""
    async with crew_of(monkeypatch, STAYS, size=1) as (crew, ears):
        await until_started(crew)
        (worker,) = ours(crew)
        draining = asyncio.create_task(crew.drain(100))
        await asyncio.sleep(0)
        worker.kill()
        assert await asyncio.wait_for(draining, 20) == 1
    assert ears.num_restarts == 0


async def test_a_drain_waits_for_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two starts nothing runs."""
    async with crew_of(monkeypatch, "raise SystemExit(7)", size=1) as (crew, _):
        crew._first_pause = 600
        while ours(crew) or not crew._orders:
            await asyncio.sleep(0.01)
        assert await asyncio.wait_for(crew.drain(100), 20) == 0


async def test_a_process_that_cannot_be_made_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory or descriptors may be there later."""
    start, attempts = WorkerProcess.start, list[int]()

    async def fail_twice(*arguments: Any) -> WorkerProcess:
        attempts.append(1)
        if len(attempts) < 3:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return await start(*arguments)

    monkeypatch.setattr(WorkerProcess, "start", fail_twice)
    async with crew_of(monkeypatch, DRAINS, size=1) as (crew, ears):
        await until_started(crew)
    assert ears.num_restarts == 2


ASKS = """
say(word="figures")
text = "still asking"
for line in link.makefile():
    message = json.loads(line)
    if message["word"] == "page":
        say(word="page", page="# EOF")
    if message["word"] == "figures":
        text = message["figures"]["text"]
    if message["word"] == "state":
        say(word="state", is_ready=True, text=text)
    if message["word"] == "drain":
        break
"""


async def test_workers_are_told_the_figures_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """While they wait for them, they are asked for their own."""
    monkeypatch.setattr("carousel.workers.crew._STATE_SECONDS", 0.01)
    async with crew_of(monkeypatch, STARTS + ASKS) as (crew, _):
        await until_started(crew)
        async with asyncio.timeout(20):
            while not all(worker.text.startswith("of ") for worker in ours(crew)):
                await asyncio.sleep(0.01)
        # The first may have asked before the second was there.
        assert "of 2 workers" in [worker.text for worker in ours(crew)]
        assert await crew.drain(20) == 0


async def test_a_silent_worker_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its counts are those from before."""
    monkeypatch.setattr("carousel.workers.crew._SILENT_SECONDS", 0.05)
    script = STARTS + SPEAKS.replace('word == "state"', "False").format(drain="break")
    async with crew_of(monkeypatch, script) as (crew, _):
        await until_started(crew)
        while crew.is_ready:
            await asyncio.sleep(0.01)
        assert crew.text == (
            "not ready; 0 of 2 workers are ready; worker 0: does not answer; worker 1: does not answer"
        )
