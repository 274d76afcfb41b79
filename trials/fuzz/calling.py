"""Sends inputs to a server with a few workers, and watches for forbidden answers, hangs and exits."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc
from trials.fuzz.call_inputs import CALLS
from trials.fuzz.findings import CRASH, HANG, INTERNAL, Finding, Report
from trials.fuzz.garbage import draw_garbage, throw
from trials.fuzz.mutations import make_dice
from trials.fuzz.scripts import Memory, Metadata, Step
from trials.fuzz.servers import FuzzedServer

from carousel.bundle.manifest import Manifest

GARBAGE = "garbage"
_BATCH = 250
_WORKERS = 8
_OURS = "Internal error from Core"  # the client's own library: the call had ended while a message was written
_FORBIDDEN = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


@dataclass(frozen=True, slots=True)
class _Input:
    """The input that is running, and the server generation."""

    kind: str
    number: int
    generation: int


class Player:
    """Plays inputs on one server."""

    def __init__(self, server: FuzzedServer, manifest: Manifest, report: Report, hang_seconds: float) -> None:
        self._server = server
        self._manifest = manifest
        self._report = report
        self._hang_seconds = hang_seconds
        self._under_way: set[int] = set()
        self._mending = asyncio.Lock()

    async def run(self, kind: str, numbers: Sequence[int]) -> None:
        for first in range(0, len(numbers), _BATCH):
            await self._run_batch(kind, numbers[first : first + _BATCH])

    async def _run_batch(self, kind: str, numbers: Sequence[int]) -> None:
        await self._demand(kind, numbers, await self._server.prepare())
        rest = iter(numbers)
        await asyncio.gather(*(self._work(kind, rest) for _ in range(_WORKERS)))
        await self._demand(kind, numbers, await self._server.check())
        self._report.num_inputs[kind] += len(numbers)

    async def _demand(self, kind: str, numbers: Sequence[int], trouble: str) -> None:
        if trouble:
            self._report.add(Finding(CRASH, kind, numbers, trouble))
            await self._server.restart()

    async def _work(self, kind: str, numbers: Iterator[int]) -> None:
        for number in numbers:
            async with self._mending:  # nothing begins while the server restarts
                pass
            played = _Input(kind, number, self._server.generation)
            self._under_way.add(number)
            try:
                async with asyncio.timeout(self._hang_seconds):
                    await self._play(played)
            except TimeoutError:
                await self._mend(played, HANG)
            except OSError:
                await self._mend(played, CRASH)
            finally:
                self._under_way.discard(number)

    async def _play(self, played: _Input) -> None:
        dice = make_dice(self._report.seed, played.kind, played.number)
        if played.kind == GARBAGE:
            content = draw_garbage(dice)
            await throw(self._server.http_address if dice.random() < 0.2 else self._server.grpc_address, content)
            return
        script = CALLS[played.kind](dice, self._manifest, self._server.plan.has_owners)
        memory = Memory()
        calls = [self._call(played, step, memory, script.metadata) for step in script.steps]
        if script.overlap:
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            for outcome in filter(None, outcomes):
                raise outcome
            return
        for call in calls:
            await call

    async def _call(self, played: _Input, step: Step, memory: Memory, metadata: Metadata) -> None:
        contents = step.make(memory)
        if played.generation != self._server.generation:
            return
        call = self._server.channel.stream_stream(step.method.path)(contents, metadata=metadata)
        try:
            with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError):
                async with asyncio.timeout(step.fate.seconds):
                    await _read(call, step, memory, contents[0] if len(contents) == 1 else b"")
            call.cancel()
            await self._judge(played, step, contents, await call.code(), await call.details())
            if memory.failed_items:
                detail = f"an item of {step.method.name} is answered {memory.failed_items[0]}"
                memory.failed_items.clear()
                self._report.add(Finding(INTERNAL, played.kind, [played.number], detail, b"".join(contents)))
        finally:
            call.cancel()

    async def _judge(
        self, played: _Input, step: Step, contents: Sequence[bytes], code: grpc.StatusCode, details: str
    ) -> None:
        """Raises ConnectionError when the server's exit ended the call."""
        is_current = played.generation == self._server.generation
        if code is grpc.StatusCode.UNAVAILABLE and is_current and await self._server.has_exited():
            raise ConnectionError("the server is gone")
        if played.generation != self._server.generation:
            return  # the server has exited meanwhile; that is reported already
        self._report.codes["ENDED" if details == _OURS else code.name] += 1
        if details != _OURS and code in _FORBIDDEN:
            detail = f"{step.method.name} is answered {code.name}: {details}"
            self._report.add(Finding(INTERNAL, played.kind, [played.number], detail, b"".join(contents)))

    async def _mend(self, played: _Input, what: str) -> None:
        """The server has exited or hangs: reports that once and restarts it. A hang of a single call is a finding
        too."""
        async with self._mending:
            if played.generation != self._server.generation:
                return
            if self._server.exit_code is not None or (what == CRASH and await self._server.has_exited()):
                detail = f"the server exited with {self._server.exit_code}, see {self._server.log}"
                self._report.add(Finding(CRASH, played.kind, sorted(self._under_way), detail))
                await self._server.restart()
            elif what == CRASH:
                return  # one connection broke, which a server may do to garbage
            elif await self._server.responds():
                self._report.add(Finding(HANG, played.kind, [played.number], f"no end in {self._hang_seconds} s"))
            else:
                detail = f"the server does not respond, {self._hang_seconds} s after the input"
                self._report.add(Finding(HANG, played.kind, sorted(self._under_way), detail))
                await self._server.restart()


async def _read(call: grpc.aio.StreamStreamCall, step: Step, memory: Memory, content: bytes) -> None:
    """Reads as much as the step wants."""
    left = step.fate.num_answers
    if left == 0:
        return
    async for answer in call:
        memory.note(step.method, content, answer)
        if left is not None and (left := left - 1) <= 0:
            return
