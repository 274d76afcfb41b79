"""Clients that ask for too much: each abuse runs until its process is killed."""

import argparse
import asyncio
import contextlib
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import uvloop

from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc, sessions_pb2, sessions_pb2_grpc, types_pb2

OWNER_KEY = "x-user"
_OPTIONS = (("grpc.max_send_message_length", 2**26), ("grpc.use_local_subchannel_pool", 1))
_NUM_FLOODING = 1000  # sequences of one stream
_PAUSE_SECONDS = 0.02  # between refused calls: the sender must not take the core that the server needs


class Abuser:
    """One task: its stubs, and the metadata with the owner of its calls."""

    def __init__(self, channel: grpc.aio.Channel, owner: str, number: int) -> None:
        self.model = language_model_pb2_grpc.LanguageModelStub(channel)
        self.sessions = sessions_pb2_grpc.SessionsStub(channel)
        self.metadata = ((OWNER_KEY, owner),)
        self.number = number
        self.dice = random.Random(number)

    async def generate(self, **fields: Any) -> None:
        """Reads the answer to its end; pauses after a refusal."""
        try:
            async for _ in self.model.Generate(wire.GenerateRequest(**fields), metadata=self.metadata):
                pass
        except grpc.aio.AioRpcError:
            await asyncio.sleep(_PAUSE_SECONDS)


async def stop_ids(abuser: Abuser) -> None:
    """Sends a megabyte of stop ids."""
    ids = [abuser.dice.randrange(2, 2000) for _ in range(400_000)]
    while True:
        await abuser.generate(input=_tokens(2), max_tokens=16_384, stop_ids=ids)


async def many_stop_ids(abuser: Abuser) -> None:
    """Sends as many stop ids as allowed, in generations of 16,384 tokens."""
    ids = range(2000, 2048)
    while True:
        await abuser.generate(input=_tokens(2), max_tokens=16_384, stop_ids=[*ids] * 21, sampling=_sampling())


async def huge_text(abuser: Abuser) -> None:
    """Sends more text than may be tokenized."""
    text = "the wheel turns " * 60_000
    while True:
        await abuser.generate(input=types_pb2.Input(text=text), max_tokens=0)


async def long_text(abuser: Abuser) -> None:
    """Sends as much text as may be tokenized, with more tokens than a turn may have."""
    text = "the wheel turns " * 32_000
    while True:
        await abuser.generate(input=types_pb2.Input(text=text), max_tokens=0)


async def long_ids(abuser: Abuser) -> None:
    """Sends as many ids as may be converted to text."""
    request = wire.DetokenizeRequest(ids=[abuser.dice.randrange(2, 2000) for _ in range(65_536)])
    while True:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await abuser.model.Detokenize(request, metadata=abuser.metadata)


async def huge_answer(abuser: Abuser) -> None:
    """Requests sixteen continuations of 16,384 tokens with 64 candidates each, to be recorded."""
    await _open(abuser, "huge")
    for number in itertools.count():
        wanted = {"n": 16, "max_tokens": 16_384, "num_log_probabilities": 64}
        await abuser.generate(input=_tokens(2), session_id="huge", request_id=f"r{number}", **wanted)


async def wide_answer(abuser: Abuser) -> None:
    """Requests the largest allowed answer, to be recorded."""
    name = f"wide-{abuser.number}"
    await _open(abuser, name)
    for number in itertools.count():
        wanted = {"n": 16, "max_tokens": 1_024, "num_log_probabilities": 3}
        await abuser.generate(input=_tokens(2), session_id=name, request_id=f"r{number}", **wanted)


async def idle_streams(abuser: Abuser) -> None:
    """Opens streams and sends nothing."""
    calls = []
    for _ in range(64):
        call = abuser.model.Predict(metadata=abuser.metadata)
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await call.write(wire.PredictRequest(input=_tokens(2)))
            await call.read()
        calls.append(call)
    await asyncio.sleep(3600)


async def long_generations(abuser: Abuser) -> None:
    """Occupies every lane for as long as possible."""
    while True:
        await abuser.generate(input=_tokens(2), max_tokens=16_384, sampling=_sampling())


async def full_queue(abuser: Abuser) -> None:
    """Sends more turns at once than may wait."""
    while True:
        await asyncio.gather(*(abuser.generate(input=_tokens(2), max_tokens=64) for _ in range(40)))


async def session_churn(abuser: Abuser) -> None:
    """Creates and deletes sessions."""
    for number in itertools.count():
        name = f"churn-{abuser.number}-{number}"
        await _open(abuser, name)
        request = sessions_pb2.DeleteSessionRequest(session_id=name)
        with contextlib.suppress(grpc.aio.AioRpcError):
            await abuser.sessions.DeleteSession(request, metadata=abuser.metadata)


async def session_flood(abuser: Abuser) -> None:
    """Creates more sessions than may exist: other owners must keep theirs."""
    for number in itertools.count():
        await _open(abuser, f"flood-{abuser.number}-{number}")


async def listing(abuser: Abuser) -> None:
    """Requests long pages of many sessions."""
    for number in range(2_000):
        await _open(abuser, f"listed-{abuser.number}-{number}")
    while True:
        request = sessions_pb2.ListSessionsRequest(page_size=1000)
        with contextlib.suppress(grpc.aio.AioRpcError):
            await abuser.sessions.ListSessions(request, metadata=abuser.metadata)


async def watches(abuser: Abuser) -> None:
    """Opens as many watches as allowed, on sessions that come and go."""
    calls = [
        abuser.sessions.WatchSessions(sessions_pb2.WatchSessionsRequest(), metadata=abuser.metadata) for _ in range(100)
    ]
    await asyncio.gather(session_churn(abuser), *map(_drain, calls))


async def many_flood(abuser: Abuser) -> None:
    """Sends full frames on a PredictMany stream of 1,000 sequences, as fast as the server reads them."""
    await _flood(abuser, wire.PredictRequest(input=_tokens(5)))


async def many_refused(abuser: Abuser) -> None:
    """Sends the same with requests that are refused."""
    await _flood(abuser, wire.PredictRequest(input=_tokens(5), model="another"))


async def _flood(abuser: Abuser, request: wire.PredictRequest) -> None:
    items = [wire.PredictManyRequest.Item(tag=tag, request=request) for tag in range(_NUM_FLOODING)]
    frame = wire.PredictManyRequest(items=items)
    while True:
        call = abuser.model.PredictMany(metadata=abuser.metadata)
        reading = asyncio.ensure_future(_drain(call))
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await call.write(frame)
        await reading


async def _drain(call: Any) -> None:
    with contextlib.suppress(grpc.aio.AioRpcError):
        async for _ in call:
            pass


ABUSES: dict[str, tuple[Callable[[Abuser], Awaitable[None]], int]] = {  # and its number of tasks
    "stop_ids": (stop_ids, 1),
    "many_stop_ids": (many_stop_ids, 16),
    "huge_text": (huge_text, 2),
    "long_text": (long_text, 2),
    "long_ids": (long_ids, 4),
    "huge_answer": (huge_answer, 1),
    "wide_answer": (wide_answer, 4),
    "idle_streams": (idle_streams, 18),
    "long_generations": (long_generations, 64),
    "full_queue": (full_queue, 32),
    "session_churn": (session_churn, 8),
    "session_flood": (session_flood, 8),
    "listing": (listing, 4),
    "watches": (watches, 8),
    "many_flood": (many_flood, 8),
    "many_refused": (many_refused, 8),
}
HONEST_TASKS = {"many_flood": 1}  # where honest callers are fewer: more streams must not gain their owner anything


async def run(address: str, name: str, *, is_honest: bool) -> None:
    """Runs until killed."""
    abuse, num_tasks = ABUSES[name]
    if is_honest:
        num_tasks = HONEST_TASKS.get(name, num_tasks)
    async with grpc.aio.insecure_channel(address, _OPTIONS) as channel:
        owners = [f"honest-{number}" if is_honest else "mallory" for number in range(num_tasks)]
        tasks = [asyncio.ensure_future(abuse(Abuser(channel, owner, n))) for n, owner in enumerate(owners)]
        await asyncio.sleep(1.0)
        print("running", flush=True)
        await asyncio.gather(*tasks)


async def _open(abuser: Abuser, session_id: str) -> None:
    request = sessions_pb2.CreateSessionRequest(session_id=session_id)
    with contextlib.suppress(grpc.aio.AioRpcError):
        await abuser.sessions.CreateSession(request, metadata=abuser.metadata)


def _tokens(*ids: int) -> types_pb2.Input:
    return types_pb2.Input(tokens=types_pb2.TokenIds(ids=ids))


def _sampling() -> wire.Sampling:
    return wire.Sampling(temperature=0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("name", choices=[*ABUSES])
    parser.add_argument("--honest", action="store_true")
    given = parser.parse_args()
    uvloop.run(run(given.address, given.name, is_honest=given.honest))
