"""What lies between an echo and our server, added layer by layer: a grpc.aio server with a Predict method of its own.

    python -m bench.harness.ladder_server {messages,pieces,columns} BUNDLE

`messages` reads a PredictRequest and makes a PredictResponse of ten candidates anew; `pieces` puts the same bytes
together from prepared ones; `columns` has the model choose them, each stream's sequence in a slot of the engine's
columns. There are no sessions, records or checks. Prints its address and serves until it is killed.
"""

import asyncio
import contextlib
import gc
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Protocol

import grpc
import uvloop
from prometheus_client import CollectorRegistry

from carousel.bundle.manifest import Bundle
from carousel.engine.engine import Engine
from carousel.engine.model import OnnxModel
from carousel.engine.scheduler import Bounds
from carousel.metrics import Metrics
from carousel.rpc.prediction_bytes import PredictionBytes
from carousel.sessions.resident import Named
from carousel.settings import Settings
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import sessions_pb2

NUM_CANDIDATES = 10
_HELD_BYTES = 2**26
_IDS = range(2, 2 + NUM_CANDIDATES)
_LOG_PROBABILITIES = [-1.0 - 0.25 * rank for rank in range(NUM_CANDIDATES)]


class Sequence(Protocol):
    """What one stream talks to."""

    async def feed(self, token_id: int) -> Named: ...

    def close(self) -> None: ...


class Constant:
    """Answers always the same."""

    def __init__(self) -> None:
        self._position = 0

    async def feed(self, token_id: int) -> Named:
        self._position += 1
        return Named(_IDS, _LOG_PROBABILITIES, self._position, 0)

    def close(self) -> None:
        pass


class Slot:
    """A sequence in the engine's columns, to be closed after the last answer: no step uses its slot then."""

    def __init__(self, engine: Engine) -> None:
        first_row = engine.columns.allocate_slot()
        assert first_row is not None
        self._engine = engine
        self._first_row = first_row
        self._position = 0
        engine.columns.load(first_row, engine.start_snapshot)

    async def feed(self, token_id: int) -> Named:
        found = self._engine.create_future()
        ring_size = self._engine.columns.ring_size
        row, next_row = (self._first_row + (self._position + step) % ring_size for step in (0, 1))
        self._engine.advance("", row, next_row, token_id, NUM_CANDIDATES, found)
        ids, log_probabilities, _ = await found
        self._position += 1
        return Named(ids, log_probabilities, self._position, 0)

    def close(self) -> None:
        self._engine.columns.free_slot(self._first_row)


class Service:
    """The two methods that `clients/streams.py` calls."""

    def __init__(self, make_sequence: Callable[[], Sequence], encode: Callable[[Named], bytes]) -> None:
        self._make_sequence = make_sequence
        self._encode = encode

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        predict = grpc.stream_stream_rpc_method_handler(self._predict, wire.PredictRequest.FromString)
        create = grpc.unary_unary_rpc_method_handler(
            self._create, sessions_pb2.CreateSessionRequest.FromString, sessions_pb2.Session.SerializeToString
        )
        return [
            grpc.method_handlers_generic_handler("carousel.v1.LanguageModel", {"Predict": predict}),
            grpc.method_handlers_generic_handler("carousel.v1.Sessions", {"CreateSession": create}),
        ]

    async def _predict(self, _: AsyncIterator[wire.PredictRequest], context: grpc.aio.ServicerContext) -> None:
        sequence = self._make_sequence()
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(self._encode(await sequence.feed(request.input.tokens.ids[0])))
        sequence.close()

    async def _create(
        self, request: sessions_pb2.CreateSessionRequest, context: grpc.aio.ServicerContext
    ) -> sessions_pb2.Session:
        return sessions_pb2.Session(session_id=request.session_id)


def make_message(texts: list[str], named: Named) -> bytes:
    """The answer's bytes, by way of a message."""
    response = wire.PredictResponse(position=named.position)
    for index, log_probability in zip(named.ids, named.log_probabilities, strict=True):
        response.candidates.add(id=index, log_probability=log_probability, text=texts[index])
    return response.SerializeToString()


@contextlib.asynccontextmanager
async def serving(rung: str, bundle_directory: Path) -> AsyncIterator[str]:
    """The address of one that runs here."""
    bundle = Bundle.load(bundle_directory)
    encode, texts = PredictionBytes(bundle.tokenizer).encode, list(bundle.tokenizer.texts)
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    bounds = Bounds.of(Settings(), _HELD_BYTES)
    engine = Engine(OnnxModel(bundle), bundle.manifest.start_id, bounds, Metrics(CollectorRegistry()))
    await engine.start()
    services = {
        "messages": lambda: Service(Constant, lambda named: make_message(texts, named)),
        "pieces": lambda: Service(Constant, encode),
        "columns": lambda: Service(lambda: Slot(engine), encode),
    }
    server.add_generic_rpc_handlers(services[rung]().handlers())
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
        await engine.stop()


async def _serve(rung: str, bundle_directory: Path) -> None:
    async with serving(rung, bundle_directory) as address:
        gc.collect()
        gc.freeze()
        print(address, flush=True)
        await asyncio.Event().wait()


@contextlib.contextmanager
def ladder_server(rung: str, bundle: Path) -> Iterator[tuple[str, int]]:
    """Address and process id of one in a process of its own."""
    command = [sys.executable, "-m", "bench.harness.ladder_server", rung, str(bundle)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.kill()


if __name__ == "__main__":
    sys.setswitchinterval(2e-4)  # as `carousel serve` does
    gc.set_threshold(20_000)  # likewise
    uvloop.run(_serve(sys.argv[1], Path(sys.argv[2])))
