"""Predictors that share streams: their places, disturbances around them, and their independence."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.server.fake_many import TOO_MANY
from tests.server.fake_service import OVERLOADED, STOPPING, WAIT, FakeService, Mishap

from carousel.client import AsyncClient, AsyncPredictor, Retries, ServerError, ServerUnreachable
from carousel.client.wires import shared_places
from carousel.client.wires.shared_places import MAX_FRAME_BYTES


@pytest.fixture(autouse=True)
def _two_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise two streams would need many sequences."""
    monkeypatch.setattr(shared_places, "FEW", 1)


@pytest.fixture
async def client(address: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(address, sleep=_never) as client:
        yield client


async def _never(seconds: float) -> None:
    raise AssertionError("nothing is repeated here")


async def _at_once(seconds: float) -> None:
    """A pause of no time."""


def _calls(service: FakeService, method: str) -> list[Any]:
    return [one for one in service.seen if one.method == method]


async def _open(client: AsyncClient, stack: contextlib.AsyncExitStack, num: int) -> list[AsyncPredictor]:
    return [await stack.enter_async_context(client.predictor()) for _ in range(num)]


async def test_predictors_share_two_streams(client: AsyncClient, service: FakeService) -> None:
    """This holds for any number, with sessions or without; each continues its own sequence."""
    async with contextlib.AsyncExitStack() as stack:
        predictors = await _open(client, stack, 9)
        for length in (1, 2):
            answers = await asyncio.gather(*(predict("a" * (one + 1)) for one, predict in enumerate(predictors)))
            assert [answer.position for answer in answers] == [(one + 1) * length for one in range(9)]
        async with client.session() as session:
            assert (await session.predict("abc")).position == 3
    names = [call.metadata["x-session-id"] for call in _calls(service, "PredictMany")]
    assert len(names) == len(set(names)) == 2
    assert _calls(service, "Predict") == []


@pytest.mark.parametrize("has_metadata", [False, True])
async def test_some_have_streams_of_their_own(address: str, service: FakeService, has_metadata: bool) -> None:
    """These are predictors with metadata, and all of a client with shares_streams=False."""
    async with AsyncClient(address, shares_streams=has_metadata) as client:
        await client.predict("a", metadata=[("mark", "m")] if has_metadata else [])
    assert [call.method for call in service.seen] == ["Predict"]


async def test_a_server_that_knows_no_shared_streams_is_asked_on_single_ones(
    client: AsyncClient, service: FakeService
) -> None:
    """The client switches for good and no caller notices, although grpc.aio sometimes hides the server's answer."""
    service.knows_many = False
    async with contextlib.AsyncExitStack() as stack:
        predictors = await _open(client, stack, 5)
        answers = await asyncio.gather(*(predict("a") for predict in predictors))
        answers += [await predict("a") for predict in predictors]
        assert [answer.position for answer in answers] == [1] * 5 + [2] * 5
        num_tried = len(_calls(service, "PredictMany"))
        assert (await client.predict("a")).position == 1
    assert 2 <= num_tried <= 6
    assert len(_calls(service, "PredictMany")) == num_tried
    assert len(_calls(service, "Predict")) == 6


@pytest.mark.parametrize("is_full", [True, False], ids=["full", "unknown"])
async def test_what_was_never_begun_is_asked_elsewhere(
    client: AsyncClient, service: FakeService, is_full: bool
) -> None:
    """This holds for a request on a session, even without an id: the server has not read it. Where grpc.aio hides the
    server's answer, this is unknown."""
    ids = [(await client.create_session()).session_id for _ in range(6)]
    service.knows_many, service.max_sequences = is_full, 2
    async with contextlib.AsyncExitStack() as stack:
        predictors = [await stack.enter_async_context(client.predictor(session_id=one)) for one in ids]
        outcomes: list[Any] = await asyncio.gather(*(predict("a") for predict in predictors), return_exceptions=True)
    answers = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert [answer.position for answer in answers] == [1] * len(answers)
    assert sum(service.positions.values()) == len(answers)
    assert len(answers) == 6 or all("ended the stream" in str(one) for one in outcomes if one not in answers)


async def test_a_full_stream_gets_company(client: AsyncClient, service: FakeService) -> None:
    """The server reports how many sequences a stream may have; further ones go on further streams at once."""
    service.max_sequences = 3
    async with contextlib.AsyncExitStack() as stack:
        predictors = await _open(client, stack, 20)
        for position in (1, 2):
            answers = await asyncio.gather(*(predict("a") for predict in predictors))
            assert [answer.position for answer in answers] == [position] * 20
    assert 7 <= len(_calls(service, "PredictMany")) <= 9
    assert len(_calls(service, "GetModel")) == 1


async def test_a_refusal_that_the_server_does_not_explain_teaches_nothing(
    client: AsyncClient, service: FakeService
) -> None:
    """The server reports room for a thousand sequences, but refuses one: other sequences use the two open streams as
    before."""
    service.mishaps = [Mishap(error=TOO_MANY)] * 3
    async with contextlib.AsyncExitStack() as stack:
        predictors = await _open(client, stack, 30)
        answers = await asyncio.gather(*(predict("a") for predict in predictors))
        assert [answer.position for answer in answers] == [1] * 30
    assert len(_calls(service, "PredictMany")) == 2


async def test_a_server_that_contradicts_itself_is_asked_a_few_times(address: str, service: FakeService) -> None:
    """The server reports room but refuses: each attempt tries three seats, then raises the refusal."""
    service.mishaps = [Mishap(error=TOO_MANY)] * 50
    async with AsyncClient(address, retries=Retries(max_attempts=2), sleep=_at_once) as client:
        with pytest.raises(ServerError) as caught:
            await client.predict("a")
    assert caught.value.details["limit"] == "max_sequences_per_stream"
    assert len(service.mishaps) == 50 - 6


async def test_bounds_are_forgotten_with_the_server_that_had_them(client: AsyncClient, service: FakeService) -> None:
    """When all streams have broken, the server may be a different one with larger limits."""
    service.max_sequences = 2
    async with contextlib.AsyncExitStack() as stack:
        predictors = await _open(client, stack, 10)
        await asyncio.gather(*(predict("a") for predict in predictors))
        assert len(_calls(service, "PredictMany")) == 5
        service.max_sequences, service.mishaps = 1000, [Mishap()] * 10
        outcomes = await asyncio.gather(*(predict("a") for predict in predictors), return_exceptions=True)
        assert all(isinstance(outcome, ServerError) for outcome in outcomes)
        await asyncio.gather(*(predict("a") for predict in await _open(client, stack, 50)))
    assert len(_calls(service, "PredictMany")) <= 10
    assert len(_calls(service, "GetModel")) == 1


async def test_a_server_that_takes_no_sequence_at_all_says_so(address: str, service: FakeService) -> None:
    """The client retries as for any refusal, and no more often than any call."""
    service.max_sequences = 0
    naps: list[float] = []

    async def nap(seconds: float) -> None:
        naps.append(seconds)

    async with AsyncClient(address, retries=Retries(max_attempts=3), sleep=nap) as client:
        with pytest.raises(ServerError) as caught:
            await client.predict("a")
    assert caught.value.details["limit"] == "max_sequences_per_stream"
    assert len(naps) == 2
    assert min(naps) >= 1.0


async def test_calls_on_a_session_go_where_its_stream_goes(client: AsyncClient, service: FakeService) -> None:
    """A balancer sends them to the session's server; calls on another session are not affected."""
    async with client.session("mine") as session, client.session("other") as other:
        await session.predict("a")
        (stream,) = _calls(service, "PredictMany")
        await session.feed("b")
        await session.checkpoint("here")
        await client.rewind_session("mine", position=1)
        await other.get()
    names = [call.metadata["x-session-id"] for call in service.seen]
    home = stream.metadata["x-session-id"]
    assert names == ["mine", "other", home, home, home, home, "other", "other", home]


async def test_a_session_stays_on_its_stream(client: AsyncClient, service: FakeService) -> None:
    """Its next predictor takes the same place, although the other stream has fewer sequences."""
    async with client.session("mine") as session, contextlib.AsyncExitStack() as stack:
        await session.predict("a")
        for predict in await _open(client, stack, 1):
            await predict("a")
        await session.predict("b")
        await session.predict("c")
    assert len(_calls(service, "PredictMany")) == 1


@pytest.mark.parametrize("ending", ["cancelled", "late"])
async def test_a_question_given_up_leaves_the_others_alone(
    client: AsyncClient, service: FakeService, ending: str
) -> None:
    """Whether cancelled or out of time, only its tag is closed, and the stream continues."""
    async with contextlib.AsyncExitStack() as stack:
        predictors = await _open(client, stack, 4)
        await asyncio.gather(*(predict("a") for predict in predictors))
        given_up = client.predictor(timeout_seconds=None if ending == "cancelled" else 0.3)
        asked = asyncio.ensure_future(given_up(WAIT))
        assert await asyncio.to_thread(service.is_waiting.wait, 10)
        if ending == "cancelled":
            asked.cancel()
        (outcome,) = await asyncio.gather(asked, return_exceptions=True)
        assert isinstance(outcome, ServerError if ending == "late" else asyncio.CancelledError)
        service.is_cancelled.set()
        answers = await asyncio.gather(*(predict("b") for predict in predictors))
        assert [answer.position for answer in answers] == [2] * 4
        with pytest.raises(ServerError, match="Deadline" if ending == "late" else "cancelled"):
            await given_up("c")
    assert len(_calls(service, "PredictMany")) == 2


async def test_a_predictor_that_is_dropped_ends_its_sequence(client: AsyncClient, service: FakeService) -> None:
    """Without that, the stream would carry the sequence until its end."""

    async def ask_and_forget() -> None:
        await client.predictor()("a")

    await ask_and_forget()
    gc.collect()
    assert await asyncio.to_thread(service.is_ended.wait, 10)


async def test_a_large_question_has_a_stream_of_its_own(client: AsyncClient, service: FakeService) -> None:
    """A request that the server may refuse to read must not break other sequences. A session continues on its own
    stream; a sequence without a session has to stay."""
    large = "a" * (MAX_FRAME_BYTES + 1)
    async with client.session("mine") as session, session.predictor() as predict:
        assert [(await predict(text)).position for text in ("a", large, "b")] == [
            1,
            2 + MAX_FRAME_BYTES,
            3 + MAX_FRAME_BYTES,
        ]
    assert len(_calls(service, "Predict")) == 1
    async with client.predictor() as plain:
        assert [(await plain(text)).position for text in ("a", large)] == [1, 2 + MAX_FRAME_BYTES]
    assert len(_calls(service, "Predict")) == 1


async def test_a_server_that_is_going_gets_no_further_sequences(address: str, service: FakeService) -> None:
    """The retry goes on another stream, under the same name; a balancer sends it to another server."""
    async with AsyncClient(address, sleep=_at_once) as client, client.session("mine") as session:
        await session.predict("a")
        service.mishaps = [Mishap(error=STOPPING)]
        assert (await session.predict("b")).position == 2
    first, second = _calls(service, "PredictMany")
    assert first.metadata["x-session-id"] == second.metadata["x-session-id"]


async def test_a_server_that_is_always_going_gets_no_more_than_two_streams_a_place(
    address: str, service: FakeService
) -> None:
    """A stream that was replaced twice is ended, whatever the server answers."""
    async with AsyncClient(address, sleep=_at_once) as client, contextlib.AsyncExitStack() as stack:
        idle = await _open(client, stack, 4)
        await asyncio.gather(*(predict("a") for predict in idle))
        sessions = [await stack.enter_async_context(client.session()) for _ in range(6)]
        for _ in range(5):
            service.mishaps = [Mishap(error=STOPPING)] * 6
            await asyncio.gather(*(session.predict("a") for session in sessions))
        assert {session.position for session in sessions} == {5}
        for predict in idle:
            with pytest.raises(ServerUnreachable, match="so is its successor"):
                await predict("b")
        assert len([task for task in asyncio.all_tasks() if "SharedStream._read_on" in repr(task)]) <= 4


async def test_a_server_that_is_going_answers_what_it_has(client: AsyncClient, service: FakeService) -> None:
    """Sequences on its stream stay; their requests are answered although others are refused."""
    async with contextlib.AsyncExitStack() as stack:
        predictors = await _open(client, stack, 4)
        await asyncio.gather(*(predict("a") for predict in predictors))
        service.mishaps = [Mishap(error=STOPPING)]
        with pytest.raises(ServerError) as caught:
            await predictors[0]("b")
        assert caught.value.reason == "SHUTTING_DOWN"
        answers = await asyncio.gather(*(predict("b") for predict in predictors[1:]))
        assert [answer.position for answer in answers] == [2] * 3
    assert len(_calls(service, "PredictMany")) == 2


def _homes(client: AsyncClient) -> Any:
    wire: Any = client._transport._wire
    return wire._places._homes


async def test_no_session_is_held_that_nobody_uses(address: str, service: FakeService) -> None:
    """This holds however its sequence ends: in order, dropped, refused, late, or with its stream."""
    async with AsyncClient(address, retries=Retries(max_attempts=1), sleep=_at_once) as client:
        sessions = [client.open_session((await client.create_session()).session_id) for _ in range(6)]
        await sessions[0].predict("a")
        await sessions[1].predictor()("a")
        service.mishaps = [Mishap()]
        with pytest.raises(ServerError):
            await sessions[2].predict("a")
        for session, text in ((sessions[3], "bad"), (sessions[4], "overload"), (sessions[5], WAIT)):
            with pytest.raises(ServerError):
                await session.predict(text, timeout_seconds=0.3)
        gc.collect()
        await asyncio.sleep(0)
        assert repr(_homes(client)) == "Homes(0 open, 6 resting)"


async def test_a_session_in_use_keeps_its_place(client: AsyncClient, service: FakeService) -> None:
    """This holds however many other sessions come and go: its calls carry one name."""
    homes = _homes(client)
    homes._max_resting = 2
    async with client.session("mine") as session, client.session("busy") as busy:
        await session.predict("a")
        async with busy.predictor() as predict:
            for number in range(9):
                await predict("a")
                await session.get()
                await client.predict("a", session_id=(await client.create_session(f"other-{number}")).session_id)
            await busy.get()
    names = [call.metadata["x-session-id"] for call in service.seen if call.method == "GetSession"]
    home = next(call.metadata["x-session-id"] for call in service.seen if call.method == "PredictMany")
    assert names[:9] == [home] * 9
    assert names[9] != "busy"


async def test_a_sequence_that_the_server_carries_waits_until_there_is_time(address: str, service: FakeService) -> None:
    """It is unchanged after the refusal, on its stream. A separate stream would have ended."""
    async with AsyncClient(address, sleep=_at_once) as client, client.predictor() as predict:
        await predict("a")
        service.mishaps = [Mishap(error=OVERLOADED)] * 3
        assert (await predict("b")).position == 2
    assert len(_calls(service, "PredictMany")) == 1


async def test_a_broken_stream_is_opened_anew_under_its_name(address: str, service: FakeService) -> None:
    """Sessions continue; a sequence on the stream has ended, and every request on it fails."""
    async with AsyncClient(address, sleep=_at_once) as client, client.session("mine") as session:
        predict = client.predictor()
        await predict("a")
        service.mishaps = [Mishap()]
        for _ in range(2):
            with pytest.raises(ServerError) as caught:
                await predict("b")
            assert caught.value.code == "UNAVAILABLE"
        assert (await session.predict("c")).position == 1
    first, second = _calls(service, "PredictMany")
    assert first.metadata["x-session-id"] == second.metadata["x-session-id"]


async def test_a_sequence_that_the_server_carried_is_not_begun_elsewhere(
    client: AsyncClient, service: FakeService
) -> None:
    """This holds for any end of its stream: its state is lost, and its user must know."""
    predict = client.predictor()
    await predict("a")
    service.mishaps = [Mishap(error=grpc.StatusCode.UNIMPLEMENTED)]
    with pytest.raises(ServerError) as caught:
        await predict("b")
    assert caught.value.code == "UNIMPLEMENTED"


async def test_garbage_for_an_answer_is_an_error() -> None:
    """The stream has ended, as a stream without a last message."""
    garbage = grpc.method_handlers_generic_handler(
        "carousel.v1.LanguageModel",
        {"PredictMany": grpc.stream_stream_rpc_method_handler(lambda requests, context: iter([b"\xff" * 9]))},
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([garbage])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with AsyncClient(f"127.0.0.1:{port}") as client:
            with pytest.raises(ServerError, match="ended the stream"):
                await client.predict("a")
    finally:
        await server.stop(None)


async def test_a_closed_client_leaves_no_task(address: str, service: FakeService) -> None:
    """The server sees a normal end."""
    before = asyncio.all_tasks()
    client = AsyncClient(address, retries=Retries(max_attempts=1))
    predict = client.predictor()
    await predict("a")
    await client.close()
    assert [task for task in asyncio.all_tasks() - before if "Shared" in repr(task)] == []
    with pytest.raises(ServerError, match="the client is closed"):
        await client.predictor()("a")
