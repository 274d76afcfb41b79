"""Clients that create, fork, rewind and delete sessions, and retry each of these calls even after its answer."""

import asyncio
import random
from typing import Any

import grpc
from trials.histories import History, Line, Listing, draw_wish
from trials.persistence import Persistence, new_id
from trials.plans import Plan, Way
from trials.wire import connect, error_info

from carousel.v1 import sessions_pb2 as pb

_TURNS_A_ROUND = 10
_NUM_CHILDREN = 2
_SESSION = "the-only-one"  # every owner uses this id
_ENDED = "SESSION_ENDED"  # says nothing of a later session under the same id


async def run_lifecycles(way: Way, plan: Plan, dice: random.Random) -> History:
    """Each client is a separate owner, so its lists show only its own sessions."""
    own = Way(way.address, f"{way.owner}-of-{way.session_id}", _SESSION, way.tls_of)
    history = History("lifecycles")
    async with connect(own) as stubs:
        client = Persistence(stubs, history, dice)
        life = _Life(client, plan, dice)
        try:
            for _ in range(max(1, plan.num_turns // _TURNS_A_ROUND)):
                await life.go_round()
        except (grpc.aio.AioRpcError, TimeoutError, WrongAnswer) as error:
            client.note_trouble(error, life.line)
    return history


class WrongAnswer(Exception):
    """A call that had to be refused got an answer."""


class _Life:
    def __init__(self, client: Persistence, plan: Plan, dice: random.Random) -> None:
        self._client = client
        self._plan = plan
        self._dice = dice
        self._lines: dict[str, Line] = {}

    @property
    def line(self) -> Line:
        """The line of the first session."""
        return self._lines.get(_SESSION, Line())

    async def go_round(self) -> None:
        """Makes every lifecycle call, with late retries that must change nothing."""
        create = pb.CreateSessionRequest(session_id=_SESSION, request_id=new_id())
        await self._ask("CreateSession", create)
        self._begin(_SESSION, Line())
        await self._go_back_once()
        children = await self._fork_once()
        for name in children:
            await self._turn(name)
        await self._check_listing()
        await self._begin_anew(create)
        await self._check_listing()
        for name in list(self._lines):
            await self._delete(pb.DeleteSessionRequest(session_id=name, request_id=new_id()))
        await self._check_listing()

    async def _go_back_once(self) -> None:
        """A rewind that is retried after later turns does not undo them."""
        await self._turn(_SESSION)
        save = pb.SaveCheckpointRequest(session_id=_SESSION, checkpoint="start", request_id=new_id())
        position = (await self._ask("SaveCheckpoint", save)).position
        await self._turn(_SESSION)
        point = pb.Point(checkpoint="start")
        rewind = pb.RewindSessionRequest(session_id=_SESSION, point=point, request_id=new_id())
        await self._ask("RewindSession", rewind)
        self._begin(_SESSION, self.line.cut(position))
        await self._turn(_SESSION)
        await self._ask("RewindSession", rewind)
        await self._turn(_SESSION)

    async def _fork_once(self) -> list[str]:
        """The retry returns the same children."""
        fork = pb.ForkSessionRequest(session_id=_SESSION, count=_NUM_CHILDREN, request_id=new_id())
        children = [session.session_id for session in (await self._ask("ForkSession", fork)).sessions]
        await self._ask("ForkSession", fork)
        for name in children:
            self._begin(name, self.line.cut(self.line.size))
        return children

    async def _begin_anew(self, create: pb.CreateSessionRequest) -> None:
        """Late retries of the old session's creation and end touch no session that was created later under its id."""
        delete = pb.DeleteSessionRequest(session_id=_SESSION, request_id=new_id())
        await self._delete(delete)
        await self._ask("CreateSession", pb.CreateSessionRequest(session_id=_SESSION, request_id=new_id()))
        self._begin(_SESSION, Line())
        await self._turn(_SESSION)
        await self._ask("DeleteSession", delete)
        try:
            made = await self._ask("CreateSession", create)
            raise WrongAnswer(f"the late repeat of a creation got {made.session_id} at {made.position}")
        except grpc.aio.AioRpcError as error:
            if error_info(error).reason != _ENDED:
                raise
        await self._turn(_SESSION)

    async def _delete(self, request: pb.DeleteSessionRequest) -> None:
        line = self._lines.pop(request.session_id)
        line.final_position = await self._client.position(request.session_id)
        await self._ask("DeleteSession", request)

    async def _check_listing(self) -> None:
        listed: dict[str, int] = {}
        answer = await self._ask("ListSessions", pb.ListSessionsRequest(page_size=100))
        for session in answer.sessions:
            listed[session.session_id] = session.position
        expected = {name: line.size for name, line in self._lines.items()}
        self._client.history.listings.append(Listing(expected, listed))

    async def _turn(self, name: str) -> None:
        line = self._lines[name]
        wish = draw_wish(self._dice, self._plan.vocabulary_size)
        line.turns.append(await self._client.turn(name, wish, line.size))
        await asyncio.sleep(self._plan.pause_seconds * self._dice.random() * 2)

    def _begin(self, name: str, line: Line) -> None:
        self._lines[name] = line
        self._client.history.lines.append(line)

    async def _ask(self, method: str, request: object) -> Any:
        return await self._client.ask(method, request)
