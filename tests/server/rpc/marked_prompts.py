"""A program that serves marked prompts while each layer in turn fails with them in its error and its variables.

It prints, on standard output, each layer and how its call ended; whatever the server logs goes to standard error.
"""

import asyncio
import gc
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import grpc
from tests.fakes import ToyModel, character_tokenizer
from tests.server.rpc.test_server import House, served
from tests.worlds import LETTERS, Plan

from carousel import logs
from carousel.bundle.tokenizer import Tokenizer
from carousel.rpc import convert
from carousel.sessions.ledger import Ledger
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import sessions_pb2, types_pb2

MARK = "sword" + "fish"


def fail(*given: Any, **named: Any) -> Any:
    """As a defect would."""
    prompt = MARK
    raise ValueError(f"cannot make sense of {prompt} in {given} {named}")


async def fail_later(*given: Any, **named: Any) -> Any:
    fail(*given, **named)


async def generate(house: House) -> None:
    request = wire.GenerateRequest(session_id="s", input=types_pb2.Input(text=MARK), max_tokens=3, request_id="r")
    async for _ in house.model.Generate(request):
        pass


async def predict(house: House) -> None:
    async for _ in house.model.Predict(iter([wire.PredictRequest(input=types_pb2.Input(text=MARK))])):
        pass


async def score(house: House) -> None:
    async for _ in house.model.Score(wire.ScoreRequest(session_id="s", input=types_pb2.Input(text=MARK))):
        pass


async def tokenize(house: House) -> None:
    await house.model.Tokenize(wire.TokenizeRequest(text=MARK))


async def forget_a_task(house: House) -> None:
    """asyncio tells of it when it is collected."""
    task = asyncio.create_task(fail_later(MARK))
    await asyncio.sleep(0)
    del task
    gc.collect()


def layers(house: House) -> list[tuple[str, Any, str, Any, Callable[[House], Any]]]:
    """Name, what is replaced where, and the call that meets it."""
    world = house.world
    return [
        ("convert to", convert, "to_generation", fail, generate),
        ("convert from", convert, "from_scoring", fail, score),
        ("sessions", world.sessions, "check_model", fail, predict),
        ("sequences", world.sequences, "hold", fail, generate),
        ("ledger", Ledger, "find", fail, export),
        ("tokenizer", Tokenizer, "encode", fail, tokenize),
        ("tokenizer of a turn", Tokenizer, "encode", fail, predict),
        ("tokenizer's bytes", Tokenizer, "token_bytes", fail, score),
        ("model", ToyModel, "core", fail, predict),
        ("store acquire", type(world.store), "acquire", fail_later, generate),
        ("store commit", type(world.store), "commit", fail_later, generate),
        ("store list", type(world.store), "list_owned", fail_later, list_sessions),
        ("outside of calls", house.calls, "answer", fail, tokenize),
        ("forgotten task", wire, "DESCRIPTOR", wire.DESCRIPTOR, forget_a_task),  # nothing else fails here
    ]


async def export(house: House) -> None:
    await house.sessions.ExportSession(sessions_pb2.ExportSessionRequest(session_id="s"))


async def list_sessions(house: House) -> None:
    await house.sessions.ListSessions(sessions_pb2.ListSessionsRequest())


async def main() -> None:
    logs.configure("debug")
    logs.watch_loop(asyncio.get_running_loop())
    plan = Plan(model=ToyModel(), tokenizer=character_tokenizer(LETTERS))
    async with served(plan) as house:
        await house.sessions.CreateSession(sessions_pb2.CreateSessionRequest(session_id="s"))
        for name, place, attribute, failing, call in layers(house):
            with mock.patch.object(place, attribute, failing):
                try:
                    await call(house)
                    print(f"{name}: OK", flush=True)
                except grpc.aio.AioRpcError as error:
                    print(f"{name}: {error.code().name}", flush=True)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
