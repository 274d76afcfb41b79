"""One worker's process, as the supervisor sees it."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carousel.workers.link import Link, Message, Word

_COMMAND = ("-P", "-m", "carousel.cli.worker")  # -P: the folder that it is started in holds no modules


ReadFigures = Callable[[], Awaitable[dict[str, Any] | None]]


@dataclass(frozen=True, slots=True)
class Orders:
    """What every worker is told at its start. `overrides` are settings as a command line gives them; the environment is
    the supervisor's own."""

    bundle: Path
    overrides: Mapping[str, str]

    def write(self) -> bytes:
        """For the worker's standard input: what stands on a command line, everybody on the machine can read."""
        facts = {"bundle": str(self.bundle), "overrides": dict(self.overrides), "supervisor": os.getpid()}
        return json.dumps(facts).encode()


class WorkerProcess:
    """A process that was started. It has a process group of its own: Ctrl-C in a terminal reaches the supervisor alone,
    which then lets the workers drain."""

    def __init__(
        self, process: asyncio.subprocess.Process, link: Link, told: Callable[[], None], figures: ReadFigures
    ) -> None:
        """`told` is called when it says that it has started, `figures` when it asks for those of all."""
        self.has_started = False
        self.provider = ""
        self.is_ready = False
        self.text = "starting"  # about its readiness
        self.page = ""  # the last one that it has sent
        self.trouble = ""  # why it could not start, if it said so
        self._process = process
        self._link = link
        self._told = told
        self._figures = figures
        self._telling: asyncio.Task[None] | None = None
        self._asked: dict[Word, asyncio.Future[Message]] = {}
        self._reading = asyncio.create_task(self._read(), name=f"link {process.pid}")

    @classmethod
    async def start(cls, orders: Orders, told: Callable[[], None], figures: ReadFigures) -> "WorkerProcess":
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *_COMMAND,
                str(theirs.fileno()),
                stdin=asyncio.subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path)},
                start_new_session=True,
            )
        assert process.stdin is not None
        process.stdin.write(orders.write())
        process.stdin.close()
        return cls(process, await Link.open(ours), told, figures)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        """Returns the exit code when the process has ended; a signal's is negative."""
        code = await self._process.wait()
        await asyncio.wait([self._reading], timeout=1)  # what it has still said
        self._reading.cancel()
        if self._telling is not None:
            self._telling.cancel()
        self._link.close()
        self.is_ready, self.text = False, "ended"
        for answer in self._asked.values():
            answer.cancel()
        return code

    async def ask(self, word: Word, seconds: float) -> bool:
        """Asks for the state or the page, and keeps the answer. Returns whether it came in time."""
        if word not in self._asked:
            self._asked[word] = asyncio.get_running_loop().create_future()
            self._link.send(word)
        done, _ = await asyncio.wait([self._asked[word]], timeout=seconds)
        return any(not one.cancelled() for one in done)

    def drain(self) -> None:
        """A worker that has not started runs no turn: it just ends."""
        if self.has_started:
            self._link.send(Word.DRAIN)
        else:
            self.kill()

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()

    async def _tell_figures(self) -> None:
        """A task beside the reader: the figures need what this worker answers meanwhile."""
        self._link.send(Word.FIGURES, figures=await self._figures())

    async def _read(self) -> None:
        while (message := await self._link.read()) is not None:
            match word := Word(message["word"]):
                case Word.STARTED:
                    self.has_started, self.provider = True, message["provider"]
                    self.is_ready, self.text = True, "ready"
                    self._told()
                case Word.FAILED:
                    self.trouble = message["why"]
                case Word.STATE:
                    self.is_ready, self.text = message["is_ready"], message["text"]
                case Word.PAGE:
                    self.page = message["page"]
                case Word.FIGURES if self._telling is None or self._telling.done():
                    self._telling = asyncio.create_task(self._tell_figures(), name=f"figures for {self.pid}")
            if (answer := self._asked.pop(word, None)) is not None and not answer.done():
                answer.set_result(message)
