"""A PredictMany stream has bounds for everything that it can pile up: sequences, items, names, answers."""

import asyncio
import types
import weakref
from typing import Any

import pytest
from tests.bounds import make_bounds
from tests.fakes import GatedModel
from tests.server.rpc.many_floods import OpenGate, flood
from tests.server.rpc.served_world import Code, ask, end, open_sessions, position, reason, serving, until
from tests.worlds import Plan

from carousel.rpc import frames
from carousel.sessions.conversation import Conversation
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import sessions_pb2


async def test_sequences_that_close_count_until_they_have_closed() -> None:
    """A client that opens and closes tags has no more of them than one that leaves them open."""
    model = GatedModel()
    async with serving(Plan(model), max_sequences_per_stream=4) as served:
        names = [f"s{number}" for number in range(40)]
        await open_sessions(served, *names)
        stream = served.many()
        for tag in range(4):
            await stream.ask(tag, 1, session_id=names[tag])
            await stream.ask(tag, 1)
        model.close()
        await stream.send(*[ask(tag, 1) for tag in range(4)])
        await model.until_held()
        for tag in range(4, 40):  # the sequences before cannot close while their turns run
            await stream.send(end(tag - 4), ask(tag, 1, session_id=names[tag]))
        await asyncio.sleep(0)
        await until(lambda: served.manys[-1]._backlog)
        many = served.manys[-1]
        assert len(many._sequences) + len(many._closing) <= 5
        model.gate.set()
        assert await stream.finish() is Code.OK
        assert await position(served, names[39]) == 1
        await served.until_idle()


async def test_items_take_no_memory_before_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame can hold very many small items: those for which the stream has no room are only bytes."""
    decode, decoded = frames._decode, list[weakref.ref[Any]]()

    class Request:  # a class that allows weak references
        def __init__(self, request: wire.PredictRequest) -> None:
            self._request = request

        def __getattr__(self, name: str) -> Any:
            return getattr(self._request, name)

    def decode_and_note(content: bytes) -> types.SimpleNamespace:
        item = decode(content)
        noted = types.SimpleNamespace(tag=item.tag, close=item.close, request=Request(item.request))
        decoded.append(weakref.ref(noted.request))
        return noted

    monkeypatch.setattr(frames, "_decode", decode_and_note)
    async with serving(max_waiting_per_stream=50) as served:
        await open_sessions(served, "a")
        async with served.world.access.hold("", "a"):
            stream = served.many()
            await stream.send(*[ask(1, session_id="a") for _ in range(3000)])
            await until(lambda: len(decoded) >= 3000)  # all were examined for closes
            assert served.manys[-1].num_waiting == 50
            assert sum(one() is not None for one in decoded) <= 51
            stream.call.cancel()
        await served.until_idle()


async def test_the_room_of_what_has_closed_is_used_at_once() -> None:
    """Nothing else happens on the stream by then."""
    async with serving(max_sequences_per_stream=2) as served:
        await open_sessions(served, *"abcd")
        stream = served.many()
        for token in (1, 2):
            await stream.send(*[ask(tag, token, session_id=name) for tag, name in enumerate("ab")])
            await stream.receive(2)
        may_close = asyncio.Event()
        for sequence in served.manys[-1]._sequences.values():
            _delay_close(sequence._talk, may_close)
        await stream.send(end(0), end(1), ask(2, 1, session_id="c"), ask(3, 1, session_id="d"))
        await stream.receive(1)
        await until(lambda: served.manys[-1].num_waiting == 0)
        may_close.set()
        await stream.receive(1)
        assert await stream.finish() is Code.OK
        assert stream.answers[2][0].position == stream.answers[3][0].position == 1


def _delay_close(talk: Conversation, until: asyncio.Event) -> None:
    close = talk.close

    async def close_late() -> None:
        await until.wait()
        await close()

    talk.close = close_late  # type: ignore[method-assign]


async def test_a_stream_whose_frame_waits_for_its_round_is_not_idle() -> None:
    """Otherwise it would be closed for others although its client waits for an answer."""
    async with serving() as served:
        stream = served.many()
        await stream.ask(1, 1)
        (call,) = served.calls._open.values()
        await until(lambda: call.is_waiting)
        many, is_open = served.manys[-1], asyncio.Event()
        many._gate = gate = OpenGate()

        async def enter(owner: str, cost: float) -> None:
            await is_open.wait()

        gate.enter = enter  # type: ignore[method-assign]
        await stream.send(ask(1, 1))
        await until(lambda: many._backlog)
        assert not many.num_waiting
        assert not call.is_waiting
        is_open.set()
        await stream.receive(1)
        await until(lambda: call.is_waiting)
        await stream.send(end(1), end(2))
        await until(lambda: not many._sequences)
        await until(lambda: call.is_waiting)
        assert await stream.finish() is Code.OK


@pytest.mark.parametrize("name", ["x" * 150_000, "no name", "x" * 129])
async def test_what_cannot_be_the_name_of_a_session_is_not_kept(name: str) -> None:
    """Otherwise it would be kept for each tag as long as the stream is open."""
    async with serving() as served:
        stream = served.many()
        assert reason(await stream.ask(1, 1, session_id=name)) == "SESSION_NOT_FOUND"
        (sequence,) = served.manys[-1]._sequences.values()
        assert sequence._talk._session_id == ""
        assert reason(await stream.ask(1, 1)) == "INVALID_REQUEST"  # it does not continue from a fresh sequence
        assert (await stream.ask(2, 1)).position == 1
        assert await stream.finish() is Code.OK
        single = served.model.Predict()
        await single.write(ask(0, 1, session_id=name).request)
        assert await single.code() is Code.NOT_FOUND


async def test_answers_that_are_expected_count_as_answers_that_wait() -> None:
    """A client that asks for many candidates on many tags at once and does not read piles up little more than a
    message's bytes of them."""
    plan = Plan(bounds=make_bounds(max_held_bytes=2**22))
    async with serving(plan, max_message_bytes=20_000, max_waiting_per_stream=5000) as served:
        stream = served.many()
        tags = range(300)
        await flood(stream, [ask(tag, 1) for tag in tags], 2)
        await until(lambda: not served.manys[-1].num_waiting)
        many, most = served.manys[-1], 0
        put = many._put

        def put_and_note(*arguments: Any) -> None:
            nonlocal most
            put(*arguments)
            most = max(most, many._num_unread_bytes)

        many._put = put_and_note  # type: ignore[method-assign,assignment]
        many.next_frame = _never  # type: ignore[method-assign]
        await until(lambda: not many._changed.is_set())
        many._changed.set()
        await stream.send(*[ask(tag, 1, k=16) for tag in tags])
        await until(lambda: most > 15_000)
        await asyncio.sleep(0.2)
        assert most < 25_000
        stream.call.cancel()
        await served.until_idle()


async def test_answers_that_are_longer_than_expected_wait_for_their_reader() -> None:
    """Sealed states come back with every answer and make it longer."""
    async with serving(max_message_bytes=3000) as served:
        await open_sessions(served, "a")
        stream = served.many()
        await stream.ask(1, 1, session_id="a")
        sealed = await served.life.ExportSession(sessions_pb2.ExportSessionRequest(session_id="a"))
        first = await stream.ask(2, 1, state=sealed.state)
        await until(lambda: not served.manys[-1].num_waiting)
        many = served.manys[-1]
        many.next_frame = _never  # type: ignore[method-assign]
        many._changed.set()
        await stream.send(*[ask(2, 1, k=1) for _ in range(40)])
        await until(lambda: many._num_unread_bytes > 2500)
        await asyncio.sleep(0.2)
        assert many._num_unread_bytes < 3000 + first.ByteSize() + 20
        stream.call.cancel()
        await served.until_idle()


async def _never() -> None:
    await asyncio.Event().wait()
