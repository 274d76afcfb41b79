"""Sessions over a real port: fork, rewind, checkpoints, sealed states, events, and repeats of requests."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2
from tests.fakes import Fault, FaultyStore
from tests.server.rpc.served_house import GREEDY, House, drain, refusal, served, text, until
from tests.worlds import LIFETIMES, ROOMY, Plan

from carousel.state.memory import MemoryStore
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import sessions_pb2, sessions_pb2_grpc

Code = grpc.StatusCode
AT = sessions_pb2.Point


async def create(house: House, session_id: str = "s") -> sessions_pb2.Session:
    session: sessions_pb2.Session = await house.sessions.CreateSession(
        sessions_pb2.CreateSessionRequest(session_id=session_id)
    )
    return session


async def say(house: House, given: str, num_tokens: int = 3, **rest: Any) -> list[wire.GenerateResponse]:
    rest = {"session_id": "s", **rest}
    return await drain(
        house.model.Generate(wire.GenerateRequest(input=text(given), sampling=GREEDY, max_tokens=num_tokens, **rest))
    )


def ids_of(messages: list[wire.GenerateResponse]) -> list[int]:
    return [token.id for message in messages for token in message.tokens]


async def test_a_session_is_forked_rewound_and_tells_its_past() -> None:
    """Fork at a position, rewind to a checkpoint and history each say where the sessions stand."""
    async with served() as house:
        await create(house)
        await say(house, "ab")
        mark = sessions_pb2.SaveCheckpointRequest(session_id="s", checkpoint="here")
        assert (await house.sessions.SaveCheckpoint(mark)).position == 5
        first = await say(house, "c")
        fork = sessions_pb2.ForkSessionRequest(session_id="s", point=AT(position=5), new_session_ids=["t"])
        (forked,) = (await house.sessions.ForkSession(fork)).sessions
        assert (forked.session_id, forked.position) == ("t", 5)
        assert ids_of(await say(house, "c", session_id="t")) == ids_of(first)
        history = await house.sessions.GetHistory(sessions_pb2.GetHistoryRequest(session_id="s"))
        assert (list(history.positions), dict(history.checkpoints)) == ([0, 5, 9], {"here": 5})
        assert history.session.position == 9
        assert not history.HasField("origin")
        history = await house.sessions.GetHistory(sessions_pb2.GetHistoryRequest(session_id="t"))
        assert (history.origin.session_id, history.origin.position) == ("s", 5)
        rewind = sessions_pb2.RewindSessionRequest(session_id="s", point=AT(checkpoint="here"), expected_position=9)
        assert (await house.sessions.RewindSession(rewind)).position == 5
        assert ids_of(await say(house, "c")) == ids_of(first)


async def test_a_state_goes_out_and_comes_in() -> None:
    """An exported state is imported as a session, and every kind of turn takes it."""
    async with served() as house:
        await create(house)
        await say(house, "ab")
        asked = sessions_pb2.ExportSessionRequest(session_id="s", ttl=duration_pb2.Duration(seconds=50))
        sealed = await house.sessions.ExportSession(asked)
        assert sealed.position == 5
        taken = sessions_pb2.ImportSessionRequest(state=sealed.state, session_id="t")
        assert (await house.sessions.ImportSession(taken)).position == 5
        expected = await say(house, "c")
        brought = await say(house, "c", session_id="", state=sealed.state)
        assert ids_of(brought) == ids_of(expected)
        assert (brought[-1].finished.position, expected[-1].finished.state) == (9, b"")
        state = brought[-1].finished.state
        scored = await drain(house.model.Score(wire.ScoreRequest(state=state, input=text("ab"))))
        assert scored[-1].totals.position == 11
        stream = house.model.Predict(iter([wire.PredictRequest(state=scored[-1].totals.state), wire.PredictRequest()]))
        first, second = await drain(stream)
        assert first.position == second.position == 11
        assert list(first.candidates) == list(second.candidates)
        assert first.state != second.state


async def test_a_predict_stream_goes_on_from_its_own_state() -> None:
    """Each message of a stream that brought a state goes on from the last answer's, without sending it back."""
    async with served() as house:
        await create(house)
        sealed = await house.sessions.ExportSession(sessions_pb2.ExportSessionRequest(session_id="s"))
        messages = [wire.PredictRequest(state=sealed.state, input=text("a")), wire.PredictRequest(input=text("b"))]
        answers = await drain(house.model.Predict(iter(messages)))
        assert [one.position for one in answers] == [1, 2]
        again = await drain(house.model.Predict(iter([wire.PredictRequest(state=answers[0].state, input=text("b"))])))
        assert list(again[0].candidates) == list(answers[1].candidates)


@pytest.mark.parametrize(
    "ttl",
    [
        duration_pb2.Duration(),
        duration_pb2.Duration(seconds=-1),
        duration_pb2.Duration(seconds=2**62),
        duration_pb2.Duration(seconds=-(2**62)),
        duration_pb2.Duration(seconds=367 * 86_400),
    ],
)
async def test_a_ttl_out_of_bounds_is_named(ttl: duration_pb2.Duration) -> None:
    """This includes one that no clock can hold."""
    async with served() as house:
        await create(house)
        request = sessions_pb2.ExportSessionRequest(session_id="s", ttl=ttl)
        code, _, details = await refusal(house.sessions.ExportSession(request))
        assert code is Code.INVALID_ARGUMENT
        assert details["BadRequest"].field_violations[0].field == "ttl"


async def test_a_repeat_is_answered_again_over_the_wire() -> None:
    """The answer comes token for token, marked as a replay, with its own position, for all three kinds of turn."""
    async with served() as house:
        await create(house)
        first, again = [await say(house, "ab", 20, request_id="g", num_log_probabilities=3) for _ in range(2)]
        assert [token for one in first for token in one.tokens] == [token for one in again for token in one.tokens]
        assert "".join(one.text for one in first) == "".join(one.text for one in again)
        ends = [messages[-1].finished for messages in (first, again)]
        assert [(end.position, end.is_replay) for end in ends] == [(22, False), (22, True)]
        score = wire.ScoreRequest(session_id="s", request_id="s", input=text("abc"))
        totals = [(await drain(house.model.Score(score)))[-1].totals for _ in range(2)]
        assert [(one.position, one.is_replay, one.num_tokens) for one in totals] == [(25, False, 3), (25, True, 3)]
        predict = wire.PredictRequest(session_id="s", request_id="p", input=text("a"))
        one, other = await drain(house.model.Predict(iter([predict, predict])))
        assert (one.position, other.position, one.is_replay, other.is_replay) == (26, 26, False, True)
        assert list(one.candidates) == list(other.candidates)


async def test_the_ways_a_call_can_be_refused() -> None:
    """Each refusal of a persistent session has its code, reason and facts."""
    async with served() as house:
        await create(house)
        await say(house, "ab", request_id="r")
        point = AT(position=3)
        expected = [
            (_generate(expected_position=4), Code.ABORTED, "POSITION_MISMATCH", {"position": "5"}),
            (_generate(request_id="r"), Code.INVALID_ARGUMENT, "INVALID_REQUEST", {"field": "request_id"}),
            (_generate(request_id="a b"), Code.INVALID_ARGUMENT, "INVALID_REQUEST", {"field": "request_id"}),
            (_generate(state=b"x"), Code.INVALID_ARGUMENT, "INVALID_REQUEST", {"field": "state"}),
            (_generate(session_id="", state=b"x"), Code.FAILED_PRECONDITION, "STATE_REFUSED", {"why": "not_a_state"}),
        ]
        calls: list[tuple[Any, grpc.StatusCode, str, dict[str, str]]] = [
            (house.model.Generate(request), code, reason, facts) for request, code, reason, facts in expected
        ]
        rewind = sessions_pb2.RewindSessionRequest(session_id="s", point=point)
        calls.append((house.sessions.RewindSession(rewind), Code.FAILED_PRECONDITION, "POSITION_UNKNOWN", {}))
        broken = sessions_pb2.ImportSessionRequest(state=b"CRSB" + bytes(200))
        facts = {"why": "version"}
        calls.append((house.sessions.ImportSession(broken), Code.FAILED_PRECONDITION, "STATE_REFUSED", facts))
        for call, code, reason, facts in calls:
            found, _, details = await refusal(call)
            assert (found, details["ErrorInfo"].reason) == (code, reason)
            assert dict(details["ErrorInfo"].metadata) == facts
        session = await house.sessions.GetSession(sessions_pb2.GetSessionRequest(session_id="s"))
        assert session.position == 5


def _generate(**changes: Any) -> wire.GenerateRequest:
    return wire.GenerateRequest(**{"session_id": "s", "input": text("a"), "max_tokens": 1, **changes})


async def test_endings_are_told_apart() -> None:
    """Deleted and expired sessions have different endings, with time and cause."""
    async with served() as house:
        await create(house, "deleted")
        await house.sessions.DeleteSession(sessions_pb2.DeleteSessionRequest(session_id="deleted"))
        await create(house, "expired")
        house.world.clock.advance(100)
        for name, code, reason, ending in (
            ("deleted", Code.NOT_FOUND, "SESSION_DELETED", "deleted"),
            ("expired", Code.FAILED_PRECONDITION, "SESSION_EXPIRED", "idle"),
        ):
            found, _, details = await refusal(house.model.Generate(_generate(session_id=name)))
            assert (found, details["ErrorInfo"].reason) == (code, reason)
            assert details["ErrorInfo"].metadata["ending"] == ending
            assert float(details["ErrorInfo"].metadata["ended_at"]) >= 1_000_000


async def test_a_store_that_is_away_is_unavailable_with_a_hint() -> None:
    """The call is UNAVAILABLE with a time to try again; a repeat after a lost answer is not applied twice."""
    store = FaultyStore(MemoryStore(ROOMY, LIFETIMES))
    async with served(Plan(store=lambda clock: store)) as house:
        await create(house)
        for fault in (Fault.ACQUIRE, Fault.BEFORE_WRITE, Fault.AFTER_WRITE):
            store.faults[fault] = 1
            code, _, details = await refusal(house.model.Generate(_generate(request_id="r")))
            assert (code, details["ErrorInfo"].reason) == (Code.UNAVAILABLE, "STORE_UNAVAILABLE")
            assert details["RetryInfo"].retry_delay.seconds == 1
        messages = await drain(house.model.Generate(_generate(request_id="r")))
        assert (messages[-1].finished.position, messages[-1].finished.is_replay) == (2, True)


async def test_events_reach_the_watcher_of_their_owner() -> None:
    """Events come from when the call is answered; the stream ends with the server."""
    async with served(owner="x-owner") as house:
        ann, bob = (("x-owner", "ann"),), (("x-owner", "bob"),)
        watching = house.sessions.WatchSessions(sessions_pb2.WatchSessionsRequest(), metadata=ann)
        await watching.initial_metadata()
        for metadata, name in ((bob, "his"), (ann, "hers")):
            request = sessions_pb2.CreateSessionRequest(session_id=name)
            await house.sessions.CreateSession(request, metadata=metadata)
        await house.sessions.DeleteSession(sessions_pb2.DeleteSessionRequest(session_id="hers"), metadata=ann)
        events = [await watching.read(), await watching.read()]
        kinds = [sessions_pb2.SessionEvent.KIND_CREATED, sessions_pb2.SessionEvent.KIND_DELETED]
        assert [(one.kind, one.session_id, one.time.seconds) for one in events] == [
            (kind, "hers", 1_000_000) for kind in kinds
        ]
        waiting = asyncio.ensure_future(watching.read())
        await house.calls.finish(5)
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await waiting
        assert ended.value.code() is Code.UNAVAILABLE


async def test_a_watcher_that_leaves_is_forgotten() -> None:
    """Its call ends and the hub holds nothing for it."""
    async with served() as house:
        watching = house.sessions.WatchSessions(sessions_pb2.WatchSessionsRequest())
        await watching.initial_metadata()
        watching.cancel()
        await until(lambda: house.world.value("requests_total", method="WatchSessions", code="CANCELLED") == 1)
        assert house.world.operations._hub._boards == {}


async def test_a_foreign_session_is_as_unknown_to_every_call() -> None:
    """Fork, rewind, checkpoint, history and export answer a stranger as for an unknown session."""
    async with served(owner="x-owner") as house:
        request = sessions_pb2.CreateSessionRequest(session_id="hers")
        await house.sessions.CreateSession(request, metadata=(("x-owner", "ann"),))
        stub: sessions_pb2_grpc.SessionsStub = house.sessions
        methods = [
            (stub.ForkSession, sessions_pb2.ForkSessionRequest),
            (stub.RewindSession, sessions_pb2.RewindSessionRequest),
            (stub.SaveCheckpoint, sessions_pb2.SaveCheckpointRequest),
            (stub.GetHistory, sessions_pb2.GetHistoryRequest),
            (stub.ExportSession, sessions_pb2.ExportSessionRequest),
        ]
        for method, kind in methods:
            rest = {"checkpoint": "c"} if kind is sessions_pb2.SaveCheckpointRequest else {}
            foreign, unknown = [
                await refusal(method(kind(session_id=name, **rest), metadata=(("x-owner", "bob"),)))
                for name in ("hers", "none")
            ]
            assert foreign[0] is unknown[0] is Code.NOT_FOUND
            assert foreign[1].replace("hers", "none") == unknown[1]
