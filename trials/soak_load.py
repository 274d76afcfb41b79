"""The mixed load of the soak: sessions that are cancelled, retried, forked, rewound, deleted and left to expire."""

import asyncio
import contextlib
import random
from collections import Counter
from typing import Any

import grpc
from trials.histories import Turn, Wish, draw_wish
from trials.library import await_turn
from trials.persistence import SECONDS, new_id
from trials.plans import Way
from trials.wire import StreamCut, Stubs, connect, error_info, open_turn, read_turn

from carousel.client import AsyncClient, AsyncSession, ServerError
from carousel.v1 import sessions_pb2 as pb

_TURNS = (5, 30)
_LONG = 500  # tokens of a stream that is cancelled
_SHARE_OF_LIBRARY = 1 / 3


class Load:
    """The load on one server. `num_turns` counts acknowledged turns, `unexpected` what no client of a healthy server
    should see."""

    def __init__(self, address: str, vocabulary_size: int, seed: str) -> None:
        self.num_turns = 0
        self.unexpected: Counter[str] = Counter()
        self._way = Way(address, "", "")
        self._vocabulary_size = vocabulary_size
        self._dice = random.Random(seed)

    def count_turns(self) -> int:
        return self.num_turns

    async def run(self, num_clients: int) -> None:
        """Runs until cancelled."""
        client = AsyncClient(self._way.address)
        async with connect(self._way) as stubs, client, asyncio.TaskGroup() as group:
            for _ in range(num_clients):
                group.create_task(self._live(stubs, client))

    async def fill_records(self, count: int, at_once: int = 32) -> None:
        """Creates and deletes sessions, so that the server's records of past ones reach their limits."""
        left = iter(range(count))
        async with connect(self._way) as stubs, asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(self._make_and_delete(stubs, left))

    async def _make_and_delete(self, stubs: Stubs, left: Any) -> None:
        for _ in left:
            session_id = await _create(stubs)
            await _delete(stubs, session_id)

    async def _live(self, stubs: Stubs, client: AsyncClient) -> None:
        while True:
            try:
                if self._dice.random() < _SHARE_OF_LIBRARY:
                    await self._spend_session_by_library(client)
                else:
                    await self._spend_session(stubs)
            except grpc.aio.AioRpcError as error:
                self.unexpected[f"{error.code().name} {error_info(error).reason}: {error.details()}"] += 1
            except (ServerError, StreamCut) as error:
                self.unexpected[repr(error)] += 1

    async def _spend_session(self, stubs: Stubs) -> None:
        """Runs one session's life; half are deleted, the others expire."""
        session_id = await _create(stubs)
        for _ in range(self._dice.randint(*_TURNS)):
            await self._do_something(stubs, session_id)
        if self._dice.random() < 0.5:
            await _delete(stubs, session_id)

    async def _do_something(self, stubs: Stubs, session_id: str) -> None:
        chance = self._dice.random()
        if chance < 0.05:
            await self._cancel_stream(stubs, session_id)
        elif chance < 0.15:
            await self._repeat_turn(stubs, session_id)
        elif chance < 0.18:
            await self._fork(stubs, session_id)
        elif chance < 0.21:
            await self._rewind(stubs, session_id)
        else:
            await self._turn(stubs, session_id, self._draw(), new_id())

    async def _cancel_stream(self, stubs: Stubs, session_id: str) -> None:
        wish = Wish("generate", self._draw().ids, _LONG, 0)
        call = open_turn(stubs, wish, session_id, new_id(), None, SECONDS)
        with contextlib.suppress(StreamCut):
            await read_turn(call, wish, give_up_after=self._dice.randint(1, 3))

    async def _repeat_turn(self, stubs: Stubs, session_id: str) -> None:
        """Sends the same request twice, at once or in sequence: both get one answer."""
        wish, request_id = self._draw(), new_id()
        if self._dice.random() < 0.5:
            first, second = await asyncio.gather(*(self._turn(stubs, session_id, wish, request_id) for _ in range(2)))
        else:
            first = await self._turn(stubs, session_id, wish, request_id)
            second = await self._turn(stubs, session_id, wish, request_id)
        self.num_turns -= 1
        if first != second:
            self.unexpected["a repeat got another answer"] += 1

    async def _fork(self, stubs: Stubs, session_id: str) -> None:
        """Forks children that live for a turn; one is deleted, one left."""
        request = pb.ForkSessionRequest(session_id=session_id, count=2, request_id=new_id())
        forked = await stubs.sessions.ForkSession(request, timeout=SECONDS)
        for child in forked.sessions:
            await self._turn(stubs, child.session_id, self._draw(), new_id())
        await _delete(stubs, forked.sessions[0].session_id)

    async def _rewind(self, stubs: Stubs, session_id: str) -> None:
        save = pb.SaveCheckpointRequest(session_id=session_id, checkpoint="here", request_id=new_id())
        await stubs.sessions.SaveCheckpoint(save, timeout=SECONDS)
        await self._turn(stubs, session_id, self._draw(), new_id())
        point = pb.Point(checkpoint="here")
        rewind = pb.RewindSessionRequest(session_id=session_id, point=point, request_id=new_id())
        await stubs.sessions.RewindSession(rewind, timeout=SECONDS)

    async def _turn(self, stubs: Stubs, session_id: str, wish: Wish, request_id: str) -> Turn:
        turn = await read_turn(open_turn(stubs, wish, session_id, request_id, None, SECONDS), wish)
        self.num_turns += 1
        return turn

    async def _spend_session_by_library(self, client: AsyncClient) -> None:
        async with client.session(keep=self._dice.random() < 0.5) as session:
            for _ in range(self._dice.randint(*_TURNS)):
                if self._dice.random() < 0.05:
                    await self._close_stream(session)
                await await_turn(session, self._draw())
                self.num_turns += 1

    async def _close_stream(self, session: AsyncSession) -> None:
        stream = session.generate(self._draw().ids, max_tokens=_LONG)
        async for _ in stream:
            break
        await stream.close()

    def _draw(self) -> Wish:
        return draw_wish(self._dice, self._vocabulary_size)


async def _create(stubs: Stubs) -> str:
    made = await stubs.sessions.CreateSession(pb.CreateSessionRequest(request_id=new_id()), timeout=SECONDS)
    return str(made.session_id)


async def _delete(stubs: Stubs, session_id: str) -> None:
    request = pb.DeleteSessionRequest(session_id=session_id, request_id=new_id())
    await stubs.sessions.DeleteSession(request, timeout=SECONDS)
