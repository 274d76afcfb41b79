"""The proxy that drops answers: requests arrive; at some moment the answer and the connection are lost."""

import asyncio
import random

from trials.dropping_proxy import dropping


async def test_an_answer_is_dropped_and_its_request_was_done() -> None:
    """Echoes repeat until the connection ends: the other side has received the request that got no answer."""
    received: list[bytes] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while content := await reader.read(100):
            received.append(content)
            writer.write(content)
        writer.close()

    far = await asyncio.start_server(echo, "127.0.0.1", 0)
    host, port = far.sockets[0].getsockname()
    async with far, dropping(f"{host}:{port}", random.Random(1), seconds_of_life=(0.0, 0.05)) as dropper:
        for _ in range(3):
            num_answers = await _ask_until_cut(dropper.address)
            assert len(received) == num_answers + 1
            received.clear()
        assert dropper.num_drops == 3


async def test_a_server_that_is_away_is_away_through_the_proxy_too() -> None:
    """The connection ends without an answer, and no drop is counted."""
    async with dropping("127.0.0.1:1", random.Random(1)) as dropper:
        assert await _ask_until_cut(dropper.address) == 0
        assert dropper.num_drops == 0


async def _ask_until_cut(address: str) -> int:
    """Returns the number of answers."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    num_answers = 0
    try:
        while True:
            writer.write(b"request")
            await reader.readexactly(7)
            num_answers += 1
    except (OSError, asyncio.IncompleteReadError):
        return num_answers
    finally:
        writer.transport.abort()
