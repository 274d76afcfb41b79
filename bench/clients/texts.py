"""The client process of `serving/http.py`: N texts at once, over gRPC or HTTP. Prints one JSON list.

    python -m bench.clients.texts ADDRESS '{"kind": "http_text", "num_streams": 64, ...}'

Each text says when it was asked for, when its first words came and when it ended, in seconds, and its number of tokens.
What comes over HTTP is kept as it is, and read when all texts have ended: the client must not be the slower one.
"""

import asyncio
import itertools
import json
import re
import sys
import time
from dataclasses import asdict, dataclass
from typing import cast

import grpc
import uvloop
from bench.harness.load import Load

from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc, types_pb2

_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)  # connections of their own
_WARM_UP_TOKENS = 8
_BEGINNING = b"HTTP/1.1 200 "
_END = b"\r\n0\r\n\r\n"  # of an answer in chunks
_EVENT = re.compile(rb"data: .*?\n\n", re.DOTALL)
_NUM_TOKENS = re.compile(rb'"completion_tokens": ?(\d+)')


@dataclass(frozen=True, slots=True)
class Text:
    """What was seen of one text."""

    asked: float
    first: float
    last: float
    num_tokens: int


async def main(address: str, load: Load) -> None:
    made = await {"grpc_text": _over_grpc, "http_text": _over_http}[load.kind](address, load)
    print(json.dumps([asdict(text) for text in made]))


async def _over_grpc(address: str, load: Load) -> list[Text]:
    channels = [grpc.aio.insecure_channel(address, _OPTIONS) for _ in range(load.num_connections)]
    try:
        for channel in channels:
            await _generate(channel, 0, _WARM_UP_TOKENS, load)
        pairs = zip(range(load.num_streams), itertools.cycle(channels), strict=False)
        return await asyncio.gather(*(_generate(channel, number, load.num_tokens, load) for number, channel in pairs))
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


async def _generate(channel: grpc.aio.Channel, number: int, num_tokens: int, load: Load) -> Text:
    request = wire.GenerateRequest(
        input=types_pb2.Input(tokens=types_pb2.TokenIds(ids=[2 + number])),
        max_tokens=num_tokens,
        sampling=wire.Sampling(temperature=load.temperature, top_p=load.top_p, seed=1),
        content=wire.GenerateRequest.CONTENT_TEXT,
    )
    asked, first, num_generated = time.perf_counter(), 0.0, 0
    async for response in language_model_pb2_grpc.LanguageModelStub(channel).Generate(request):
        first = first or time.perf_counter()
        num_generated += response.finished.num_generated_tokens
    return Text(asked, first, time.perf_counter(), num_generated)


async def _over_http(address: str, load: Load) -> list[Text]:
    """A connection for each text, as clients have them."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    answers = [
        (await loop.create_connection(_Answer, host, int(port)))[1] for _ in range(load.num_streams)
    ]  # in turn, so that none waits in the listener's line
    await answers[0].ask(_request(address, 0, _WARM_UP_TOKENS, load))
    await asyncio.gather(
        *(one.ask(_request(address, number, load.num_tokens, load)) for number, one in enumerate(answers))
    )
    made = [one.read() for one in answers]
    for one in answers:
        one.close()
    return made


def _request(address: str, number: int, num_tokens: int, load: Load) -> bytes:
    body = {
        "prompt": [2 + number],
        "max_tokens": num_tokens,
        "temperature": load.temperature,
        "top_p": load.top_p,
        "seed": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    content = json.dumps(body).encode()
    lines = ("POST /v1/completions HTTP/1.1", f"host: {address}", "content-type: application/json")
    return ("\r\n".join(lines) + f"\r\ncontent-length: {len(content)}\r\n\r\n").encode() + content


class _Answer(asyncio.Protocol):
    """A connection, and all that came in the last answer, with the times."""

    def __init__(self) -> None:
        self._asked = 0.0
        self._came: list[tuple[float, bytes]] = []
        self._end = b""
        self._ended: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        self._came.append((time.perf_counter(), data))
        self._end = (self._end + data)[-len(_END) :]
        if self._end == _END:
            self._finish(None)
        elif data.endswith(b"}") and not self._came[0][1].startswith(_BEGINNING):  # an error, with its length
            self._finish(RuntimeError(b"".join(data for _, data in self._came).decode(errors="replace")))

    def connection_lost(self, error: Exception | None) -> None:
        self._finish(error or ConnectionError("the server closed the connection"))

    async def ask(self, request: bytes) -> None:
        """Sends a request and waits for the end of its answer."""
        self._came, self._end = [], b""
        self._ended = asyncio.get_running_loop().create_future()
        self._asked = time.perf_counter()
        self._transport.write(request)
        await self._ended

    def read(self) -> Text:
        """Raises RuntimeError for an answer that is not a whole stream."""
        content = b"".join(data for _, data in self._came)
        event, num_tokens = _EVENT.search(content), _NUM_TOKENS.search(content)
        if not content.startswith(_BEGINNING) or event is None or num_tokens is None:
            raise RuntimeError(content[-2000:].decode(errors="replace"))
        sizes = itertools.accumulate(len(data) for _, data in self._came)
        first = next(at for (at, _), size in zip(self._came, sizes, strict=True) if size >= event.end())
        return Text(self._asked, first, self._came[-1][0], int(num_tokens[1]))

    def close(self) -> None:
        self._transport.close()

    def _finish(self, error: Exception | None) -> None:
        if self._ended is not None and not self._ended.done():
            if error is None:
                self._ended.set_result(None)
            else:
                self._ended.set_exception(error)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], Load(**json.loads(sys.argv[2]))))
