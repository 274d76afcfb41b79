"""Peers that leave without notice: programs with open calls that are killed or stopped, and silent connections."""

import asyncio
import contextlib
import random
import signal
import sys
from collections.abc import Sequence

import grpc
from trials.histories import Wish
from trials.persistence import new_id
from trials.plans import Way
from trials.wire import connect, open_turn

from carousel.v1 import sessions_pb2 as pb

_SECONDS_BETWEEN = 10.0
_SECONDS_STOPPED = 60.0  # beyond the servers' keepalive
_SILENT_BYTES = (b"", b"PRI * HT", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n")
_LONG = 5_000
_HOUR = 3_600.0


async def hold_open_calls(addresses: Sequence[str]) -> None:
    """Opens streams, of which some are read and some are not, until killed."""
    async with contextlib.AsyncExitStack() as stack:
        calls = []
        for address in addresses:
            stubs = await stack.enter_async_context(connect(Way(address, "", "")))
            made = await stubs.sessions.CreateSession(pb.CreateSessionRequest(request_id=new_id()))
            wish = Wish("generate", (2,), _LONG, 0)
            calls.append(open_turn(stubs, wish, made.session_id, new_id(), None, _HOUR))
            calls.append(open_turn(stubs, wish, "", "", None, _HOUR))
            calls.append(stubs.sessions.WatchSessions(pb.WatchSessionsRequest()))
            with contextlib.suppress(grpc.aio.AioRpcError):
                await calls[-3].read()
        print("open", flush=True)
        await asyncio.sleep(_HOUR)


async def vanish_again_and_again(addresses: Sequence[str], dice: random.Random) -> None:
    """Starts a program now and then, which is killed at once or first stopped for a minute. Runs until cancelled."""
    async with asyncio.TaskGroup() as group:
        while True:
            group.create_task(_vanish(addresses, is_stopped_first=dice.random() < 0.5))
            await asyncio.sleep(_SECONDS_BETWEEN)


async def _vanish(addresses: Sequence[str], *, is_stopped_first: bool) -> None:
    command = [sys.executable, "-m", "trials.vanishing_peers", *addresses]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        await process.stdout.readline()
        if is_stopped_first:
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(_SECONDS_STOPPED)
    finally:
        process.kill()
        await process.wait()


async def be_silent_again_and_again(addresses: Sequence[str], dice: random.Random) -> None:
    """Opens connections that send nothing, or an incomplete start, and close after a while. Runs until cancelled."""
    async with asyncio.TaskGroup() as group:
        while True:
            for address in addresses:
                group.create_task(_be_silent(address, dice.choice(_SILENT_BYTES), dice.uniform(1, 30)))
            await asyncio.sleep(1)


async def _be_silent(address: str, content: bytes, seconds: float) -> None:
    host, port = address.split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(content)
        await asyncio.sleep(seconds)
    finally:
        writer.transport.abort()


if __name__ == "__main__":
    asyncio.run(hold_open_calls(sys.argv[1:]))
