"""A client that retries each call until it is acknowledged, with the same request id."""

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
from trials.histories import History, Line, Turn, Wish
from trials.wire import StreamCut, Stubs, error_info, may_repeat, open_turn, read_turn

from carousel.v1 import sessions_pb2 as pb

Answer = TypeVar("Answer")

MAX_TRIES = 400
SECONDS = 15.0  # for a call in no hurry


class Persistence:
    """Calls of one client. Its answers go to `history`."""

    def __init__(self, stubs: Stubs, history: History, dice: random.Random) -> None:
        self.stubs = stubs
        self.history = history
        self._dice = dice

    async def insist(self, attempt: Callable[[], Awaitable[Answer]]) -> Answer:
        """Raises AioRpcError for a refusal that no retry can change."""
        for number in range(MAX_TRIES):
            try:
                answer = await attempt()
                self.history.hear()
                return answer
            except StreamCut:
                pass
            except grpc.aio.AioRpcError as error:
                if not may_repeat(error) or number == MAX_TRIES - 1:
                    raise
            self.history.num_retries += 1
            await asyncio.sleep(min(0.5, 0.02 * 2 ** min(number, 6)) * self._dice.random())
        raise TimeoutError("streams were cut too often")

    async def ask(self, method: str, request: object) -> object:
        """A call of the Sessions service."""
        make = getattr(self.stubs.sessions, method)
        return await self.insist(lambda: make(request, timeout=SECONDS, metadata=self.stubs.metadata))

    async def create(self, session_id: str) -> None:
        await self.ask("CreateSession", pb.CreateSessionRequest(session_id=session_id, request_id=new_id()))

    async def position(self, session_id: str) -> int:
        session = await self.ask("GetSession", pb.GetSessionRequest(session_id=session_id))
        return int(session.position)  # type: ignore[attr-defined]

    async def turn(self, session_id: str, wish: Wish, expected_position: int | None = None) -> Turn:
        """Makes one turn; without an answer where the server only remembers that the turn was applied."""
        request_id = new_id()
        try:
            return await self.insist(lambda: self._try_turn(session_id, wish, request_id, expected_position))
        except grpc.aio.AioRpcError as error:
            if error_info(error).reason == "ANSWER_GONE":
                return Turn(wish, None, ())
            raise

    async def _try_turn(self, session_id: str, wish: Wish, request_id: str, expected_position: int | None) -> Turn:
        """Some attempts have a very short timeout, some are cancelled midway."""
        is_hurried, is_fickle = self._dice.random() < 0.1, self._dice.random() < 0.1
        timeout = self._dice.uniform(0.005, 0.08) if is_hurried else SECONDS
        call = open_turn(self.stubs, wish, session_id, request_id, expected_position, timeout)
        return await read_turn(call, wish, self._dice.randint(1, 3) if is_fickle else None)

    def note_trouble(self, error: Exception, line: Line) -> None:
        """The client cannot continue. A refused expectation contains the session's position."""
        if not isinstance(error, grpc.aio.AioRpcError):
            self.history.note_trouble(repr(error))
            return
        info = error_info(error)
        self.history.note_trouble(f"{error.code().name} {info.reason}: {error.details()}", info.reason)
        if info.reason == "POSITION_MISMATCH":
            line.final_position = int(info.metadata["position"])


def new_id() -> str:
    return str(uuid.uuid4())
