"""A PredictMany call that the test plays, and requests to a stream over it."""

import asyncio
from typing import Any

import grpc
import grpc.aio

from carousel.client.wires.shared_stream import Sequence, SharedStream
from carousel.v1 import language_model_pb2 as lm

Item = lm.PredictManyResponse.Item
MAX_FRAME_BYTES = 10_000


class Script:
    """A call. The test supplies what it reads, and it records what is written, unless `may_write` is cleared."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[Any] = asyncio.Queue()
        self.written: list[Any] = []
        self.events: list[str] = []
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.failure: BaseException | None = None  # of the next write

    async def read(self) -> Any:
        answer = await self.answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def write(self, frame: Any) -> None:
        await self.may_write.wait()
        if self.failure is not None:
            raise self.failure
        self.written.append(frame)

    async def done_writing(self) -> None:
        self.events.append("done writing")
        self.answers.put_nowait(grpc.aio.EOF)

    def cancel(self) -> None:
        self.events.append("cancelled")
        self.answers.put_nowait(grpc.aio.EOF)

    def answer(self, *items: Any) -> None:
        self.answers.put_nowait(lm.PredictManyResponse(items=items))


def ask(stream: SharedStream, text: str = "a", ends_at: float | None = None) -> tuple[Sequence, asyncio.Task[Any]]:
    """Sends a sequence's first request."""
    sequence, request = stream.begin(), lm.PredictRequest(input={"text": text})

    async def wait() -> Any:
        return await stream.ask(sequence, request, request.ByteSize(), ends_at)

    return sequence, asyncio.ensure_future(wait())


async def outcomes(*asked: asyncio.Task[Any]) -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 5)


async def settle() -> None:
    """Lets everything happen that can happen now."""
    for _ in range(10):
        await asyncio.sleep(0)


def right(tag: int) -> Any:
    return Item(tag=tag, response=lm.PredictResponse(position=tag))


def broken(code: grpc.StatusCode) -> grpc.RpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "gone")
