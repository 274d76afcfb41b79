"""What the tests of the whole application share: settings on free ports, and requests over the wire."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import types_pb2

LOCAL = {"listen": "127.0.0.1:0", "http_listen": "127.0.0.1:0"}
GREEDY = wire.Sampling(temperature=0)


def request(num_tokens: int, session_id: str = "") -> wire.GenerateRequest:
    given = types_pb2.Input(text="hello")
    return wire.GenerateRequest(session_id=session_id, input=given, sampling=GREEDY, max_tokens=num_tokens)


async def collect(call: Any) -> list[wire.GenerateResponse]:
    return [message async for message in call]


def no_task_is_left() -> bool:
    return len([task for task in asyncio.all_tasks() if "grpc" not in repr(task).lower()]) == 1


async def fetch(address: str, path: str, *headers: str) -> tuple[int, str]:
    """Returns status and body over plain HTTP."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    answer = (await reader.read()).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.01)


def plain(tag: int, token: int, session_id: str) -> wire.PredictManyRequest.Item:
    given = types_pb2.Input(tokens=types_pb2.TokenIds(ids=[token]))
    return wire.PredictManyRequest.Item(tag=tag, request=wire.PredictRequest(session_id=session_id, input=given))
