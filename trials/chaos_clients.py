"""The clients of `chaos.py`: sessions of many turns that are cancelled, run out of time and are repeated at random.

A turn is repeated with the same request id until it is acknowledged. What was acknowledged is recorded; `compare` holds
it against an undisturbed run.
"""

import asyncio
import contextlib
import random
import uuid
from dataclasses import dataclass, field

import grpc

from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc, sessions_pb2, sessions_pb2_grpc, types_pb2

_RETRIED = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.INTERNAL,  # a connection that broke inside a message
    grpc.StatusCode.UNKNOWN,
}
_MAX_TRIES = 400


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A turn that the server said was applied."""

    position_before: int
    position_after: int
    token_ids: tuple[int, ...]


@dataclass(slots=True)
class History:
    """What one session's client was told, in order; `trouble` if it could not go on."""

    turns: list[Acknowledged] = field(default_factory=list)
    num_retries: int = 0
    final_position: int = -1
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What all clients do. Equal plans ask for equal tokens."""

    seed: int
    num_sessions: int
    num_turns: int
    vocabulary_size: int
    pause_seconds: float  # between the turns of a session
    is_disturbed: bool  # cancels and deadlines


async def run_clients(address: str, plan: Plan) -> list[History]:
    options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        return await asyncio.gather(*(_Client(channel, plan, number).run() for number in range(plan.num_sessions)))


def compare(disturbed: list[History], undisturbed: list[History]) -> dict[str, int]:
    """Turns that were lost (acknowledged, and not in the chain), doubled (the session went further than was told) or
    different (other tokens than without disturbance). Positions of a session must form one chain."""
    totals = {"turns": 0, "retries": 0, "lost": 0, "doubled": 0, "different": 0}
    for history, expected in zip(disturbed, undisturbed, strict=True):
        totals["turns"] += len(history.turns)
        totals["retries"] += history.num_retries
        totals["lost"] += len(expected.turns) - len(history.turns)
        position = 0
        for turn, wanted in zip(history.turns, expected.turns, strict=False):
            totals["lost"] += turn.position_before < position
            totals["doubled"] += turn.position_before > position
            totals["different"] += turn.token_ids != wanted.token_ids
            position = turn.position_after
        totals["lost"] += history.final_position < position
        totals["doubled"] += history.final_position > position
    return totals


class _Client:
    def __init__(self, channel: grpc.aio.Channel, plan: Plan, number: int) -> None:
        self._plan = plan
        self._model = language_model_pb2_grpc.LanguageModelStub(channel)
        self._sessions = sessions_pb2_grpc.SessionsStub(channel)
        self._words = random.Random(f"{plan.seed} words {number}")  # the same in both runs
        self._fate = random.Random(f"{plan.seed} fate {number}")
        self._id = f"chaos-{plan.seed}-{number}-{uuid.uuid4().hex[:8]}"
        self._metadata = (("x-session-id", self._id),)
        self._history = History()

    async def run(self) -> History:
        try:
            await self._insist(self._create)
            position = 0
            for _ in range(self._plan.num_turns):
                turn = await self._insist(self._make_turn(position))
                self._history.turns.append(turn)
                position = turn.position_after
                await asyncio.sleep(self._plan.pause_seconds * self._fate.random() * 2)
            self._history.final_position = await self._insist(self._position)
        except grpc.aio.AioRpcError as error:
            self._history.trouble = f"{error.code()}: {error.details()}"
        return self._history

    async def _insist(self, attempt):  # type: ignore[no-untyped-def]
        """Until it is acknowledged."""
        for number in range(_MAX_TRIES):
            try:
                return await attempt()
            except grpc.aio.AioRpcError as error:
                is_final = error.code() not in _RETRIED or "is at position" in (error.details() or "")
                if is_final or number == _MAX_TRIES - 1:
                    raise
            except asyncio.CancelledError:
                if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                    raise
            self._history.num_retries += 1
            await asyncio.sleep(min(0.5, 0.02 * 2 ** min(number, 6)) * self._fate.random())

    async def _create(self) -> None:
        request = sessions_pb2.CreateSessionRequest(session_id=self._id)
        try:
            await self._sessions.CreateSession(request, timeout=5, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:  # our own first attempt, whose answer was lost
                raise

    async def _position(self) -> int:
        request = sessions_pb2.GetSessionRequest(session_id=self._id)
        return int((await self._sessions.GetSession(request, timeout=5, metadata=self._metadata)).position)

    def _make_turn(self, position: int):  # type: ignore[no-untyped-def]
        ids = [self._words.randrange(2, self._plan.vocabulary_size) for _ in range(self._words.randint(1, 6))]
        request = wire.GenerateRequest(
            session_id=self._id,
            request_id=str(uuid.uuid4()),
            expected_position=position,
            input=types_pb2.Input(tokens=types_pb2.TokenIds(ids=ids)),
            sampling=wire.Sampling(temperature=0.9, seed=self._words.getrandbits(32)),
            max_tokens=self._words.randint(1, 12),
            content=wire.GenerateRequest.CONTENT_IDS,
        )
        return lambda: self._turn(request, position)

    async def _turn(self, request: wire.GenerateRequest, position: int) -> Acknowledged:
        is_hurried = self._plan.is_disturbed and self._fate.random() < 0.1
        is_fickle = self._plan.is_disturbed and self._fate.random() < 0.1
        timeout = self._fate.uniform(0.005, 0.08) if is_hurried else 15.0
        call = self._model.Generate(request, timeout=timeout, metadata=self._metadata)
        token_ids: list[int] = []
        try:
            async for response in call:
                token_ids.extend(token.id for token in response.tokens)
                if response.HasField("finished"):
                    return Acknowledged(position, response.finished.position, tuple(token_ids))
                if is_fickle and self._fate.random() < 0.3:
                    raise asyncio.CancelledError
        finally:
            with contextlib.suppress(Exception):
                call.cancel()
        raise asyncio.CancelledError  # the stream ended without an end: repeat
