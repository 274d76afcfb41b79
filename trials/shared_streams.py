"""Clients with several sessions on one PredictMany stream, which is reopened whenever it breaks."""

import asyncio
import contextlib
import itertools
import random
from dataclasses import replace
from typing import Any

import grpc
from trials.histories import History, Line, Turn, Wish, draw_wish
from trials.persistence import Persistence, new_id
from trials.plans import Plan, Way
from trials.wire import (
    REPEATED_REASONS,
    StreamCut,
    Stubs,
    connect,
    error_info,
    predict_request,
    read_prediction,
)

from carousel.v1 import language_model_pb2 as lm

_NUM_SESSIONS = 4
_PATIENCE_SECONDS = 15.0


async def run_shared(way: Way, plan: Plan, dice: random.Random) -> History:
    """Makes predictions at expected positions on all sessions at once, until all are acknowledged."""
    lines = [Line() for _ in range(_NUM_SESSIONS)]
    history = History("shared", lines)
    async with connect(way) as stubs:
        client, stream = Persistence(stubs, history, dice), SharedStream(stubs, dice)
        sessions = [_Sequence(client, stream, f"{way.session_id}.{number}") for number in range(_NUM_SESSIONS)]
        try:
            await asyncio.gather(*(one.run(line, plan, dice) for one, line in zip(sessions, lines, strict=True)))
        finally:
            await stream.close()
    return history


class SharedStream:
    """Requests of all tags on one call. When it breaks, every waiting caller gets the error."""

    def __init__(self, stubs: Stubs, dice: random.Random) -> None:
        self._stubs = stubs
        self._dice = dice
        self._call: Any = None
        self._writing = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[lm.PredictResponse]] = {}
        self._tags = itertools.count()  # never reused: a late answer would match the wrong request

    def open_tag(self) -> int:
        return next(self._tags)

    async def ask(self, tag: int, request: lm.PredictRequest) -> lm.PredictResponse:
        """Raises StreamCut or AioRpcError, as a separate call does."""
        answer: asyncio.Future[lm.PredictResponse] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_look_at)
        self._waiting[tag] = answer
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._write(lm.PredictManyRequest.Item(tag=tag, request=request))
                return await answer
        except (TimeoutError, asyncio.InvalidStateError) as error:
            raise StreamCut from error
        finally:
            self._waiting.pop(tag, None)

    async def close_tag(self, tag: int) -> None:
        """Gives up its open requests."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._write(lm.PredictManyRequest.Item(tag=tag, close=True))

    def cut(self) -> None:
        """Ends the stream as a broken connection does."""
        if self._call is not None:
            self._call.cancel()

    async def close(self) -> None:
        self.cut()
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _write(self, item: lm.PredictManyRequest.Item) -> None:
        async with self._writing:
            if self._call is None:
                self._call = self._stubs.models.PredictMany(metadata=self._stubs.metadata)
                self._reading = asyncio.create_task(self._read(self._call))
            await self._call.write(lm.PredictManyRequest(items=[item]))

    async def _read(self, call: Any) -> None:
        error: Exception = StreamCut()
        try:
            async for frame in call:
                for item in frame.items:
                    self._tell(item)
        except grpc.aio.AioRpcError as broken:
            error = broken
        except asyncio.CancelledError:
            pass  # by us: the call is cut
        finally:
            call.cancel()
            self._call = None
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(error)

    def _tell(self, item: lm.PredictManyResponse.Item) -> None:
        answer = self._waiting.get(item.tag)
        if answer is None or answer.done():
            return
        if item.HasField("response"):
            answer.set_result(item.response)
        else:
            answer.set_exception(_error_of(item.status))


class _Sequence:
    """One session of a client."""

    def __init__(self, client: Persistence, stream: SharedStream, session_id: str) -> None:
        self._client = client
        self._stream = stream
        self._session_id = session_id
        self._tag = stream.open_tag()

    async def run(self, line: Line, plan: Plan, dice: random.Random) -> None:
        try:
            await self._client.create(self._session_id)
            for _ in range(plan.num_turns):
                drawn = draw_wish(dice, plan.vocabulary_size)
                ids = drawn.ids[:1] if dice.random() < 0.8 else drawn.ids
                line.turns.append(await self._take_turn(replace(drawn, call="predict", ids=ids), line.size, dice))
                await asyncio.sleep(plan.pause_seconds * dice.random() * 2)
            line.final_position = await self._client.position(self._session_id)
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            self._client.note_trouble(error, line)

    async def _take_turn(self, wish: Wish, expected_position: int, dice: random.Random) -> Turn:
        """Some attempts are given up: their tag is closed, or the whole stream is cut."""
        request = predict_request(wish, self._session_id, new_id(), expected_position)

        async def attempt() -> lm.PredictResponse:
            if dice.random() > 0.06:
                return await self._stream.ask(self._tag, request)
            asking = asyncio.create_task(self._stream.ask(self._tag, request))
            await asyncio.wait([asking], timeout=dice.random() * 0.02)
            if asking.done():
                return await asking
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            if dice.random() < 0.3:
                self._stream.cut()
            else:
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await self._stream.close_tag(self._tag)
                self._tag = self._stream.open_tag()
            raise StreamCut

        try:
            answer = await self._client.insist(attempt)
        except grpc.aio.AioRpcError as error:
            if error_info(error).reason == "ANSWER_GONE":
                return Turn(wish, None, ())
            raise
        return Turn(wish, int(answer.position), tuple(read_prediction(answer)))


def _look_at(answer: "asyncio.Future[lm.PredictResponse]") -> None:
    """Retrieves the exception: the waiting caller may have given up."""
    if not answer.cancelled():
        answer.exception()


def _error_of(status: Any) -> Exception:
    """Returns the error with which a separate call would end."""
    codes = {code.value[0]: code for code in grpc.StatusCode}
    details = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    error = grpc.aio.AioRpcError(codes[status.code], grpc.aio.Metadata(), details, details=status.message)
    return StreamCut() if error_info(error).reason in REPEATED_REASONS else error
