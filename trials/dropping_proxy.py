"""A proxy that drops answers: requests arrive, and at some moment the answer and the connection are lost."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

_SECONDS_OF_LIFE = (0.3, 6.0)
_CHUNK_BYTES = 65_536


@dataclass(slots=True)
class Dropper:
    """The proxy's address, and how often it has dropped an answer."""

    address: str
    num_drops: int = 0


@contextlib.asynccontextmanager
async def dropping(
    target: str, dice: random.Random, seconds_of_life: tuple[float, float] = _SECONDS_OF_LIFE
) -> AsyncIterator[Dropper]:
    """Opens a proxy to `target` (host:port). Each of its connections lives for a few seconds: it passes on what clients
    send, and ends with the first answer after its time, which is lost."""
    host, port = target.split(":")
    dropper = Dropper("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dies_at = time.monotonic() + dice.uniform(*seconds_of_life)
        with contextlib.suppress(OSError, asyncio.CancelledError):  # nothing waits for this task
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
            there = asyncio.create_task(_pass(reader, far_writer))
            try:
                has_dropped = await _pass(far_reader, writer, dies_at)
                dropper.num_drops += has_dropped
            finally:
                there.cancel()
                far_writer.transport.abort()
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    dropper.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield dropper
    finally:
        server.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, dies_at: float = float("inf")) -> bool:
    """Passes bytes until one side ends, or the first bytes after `dies_at`. Returns whether those came."""
    with contextlib.suppress(OSError):
        while content := await reader.read(_CHUNK_BYTES):
            if time.monotonic() >= dies_at:
                return True
            writer.write(content)
            await writer.drain()
        writer.write_eof()
    return False
