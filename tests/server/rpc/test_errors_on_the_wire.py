"""Each error over a real port has its code, its reason and its details, and harms no other call."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from tests.bounds import make_bounds, make_limits
from tests.fakes import GatedModel
from tests.server.rpc.served_house import GREEDY, MAX_MESSAGE_BYTES, Code, drain, refusal, served, text, tokens, until
from tests.worlds import LIFETIMES, Plan

from carousel.state.memory import MemoryStore
from carousel.state.store import Capacity
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import sessions_pb2


@pytest.mark.parametrize(
    ("request_message", "field"),
    [
        (wire.GenerateRequest(input=tokens(16)), "input.tokens"),
        (wire.GenerateRequest(input=tokens(-1)), "input.tokens"),
        (wire.GenerateRequest(input=text("a" * 1001)), "input"),
        (wire.GenerateRequest(max_tokens=-1), "max_tokens"),
        (wire.GenerateRequest(max_tokens=2**31 - 1), "max_tokens"),
        (wire.GenerateRequest(sampling=wire.Sampling(temperature=float("nan"))), "sampling.temperature"),
        (wire.GenerateRequest(sampling=wire.Sampling(top_p=0)), "sampling.top_p"),
        (wire.GenerateRequest(sampling=wire.Sampling(logit_bias={99: 1})), "sampling.logit_bias"),
        (wire.GenerateRequest(stop=[""]), "stop[0]"),
        (wire.PredictRequest(k=257), "k"),
        (wire.ScoreRequest(g=0), "g"),
        (wire.DetokenizeRequest(ids=[3, 16]), "ids"),
        (sessions_pb2.ListSessionsRequest(page_size=-1), "page_size"),
        (sessions_pb2.ListSessionsRequest(page_token="x"), "page_token"),
        (sessions_pb2.ListSessionsRequest(page_token="9" * 5000), "page_token"),
        (sessions_pb2.CreateSessionRequest(session_id="a b"), "session_id"),
    ],
)
async def test_a_bad_value_is_named(request_message: Any, field: str) -> None:
    """INVALID_ARGUMENT with the reason and a BadRequest that names the field."""
    async with served() as house:
        method = type(request_message).__name__.removesuffix("Request")
        stub = house.sessions if "Session" in method else house.model
        argument = iter([request_message]) if method == "Predict" else request_message
        code, _, details = await refusal(getattr(stub, method)(argument))
        assert (code, details["ErrorInfo"].reason) == (Code.INVALID_ARGUMENT, "INVALID_REQUEST")
        assert details["ErrorInfo"].domain == "carousel"
        assert [one.field for one in details["BadRequest"].field_violations] == [field]


@pytest.mark.parametrize("session_id", ["nothing", "x" * 100_000])
async def test_an_unknown_session_is_not_found(session_id: str) -> None:
    """Every call that names it fails so, however long the name is."""
    async with served() as house:
        for call in (
            house.model.Generate(wire.GenerateRequest(session_id=session_id)),
            house.model.Score(wire.ScoreRequest(session_id=session_id)),
            house.model.Predict(iter([wire.PredictRequest(session_id=session_id)])),
            house.sessions.GetSession(sessions_pb2.GetSessionRequest(session_id=session_id)),
            house.sessions.DeleteSession(sessions_pb2.DeleteSessionRequest(session_id=session_id)),
        ):
            code, _, details = await refusal(call)
            assert (code, details["ErrorInfo"].reason) == (Code.NOT_FOUND, "SESSION_NOT_FOUND")


@pytest.mark.parametrize("model", ["other", "x" * 100_000])
async def test_an_unknown_model_is_not_found(model: str) -> None:
    """Every call that can name a model refuses another one."""
    async with served() as house:
        for call in (
            house.model.Generate(wire.GenerateRequest(model=model)),
            house.model.Score(wire.ScoreRequest(model=model)),
            house.model.Predict(iter([wire.PredictRequest(model=model)])),
            house.model.Tokenize(wire.TokenizeRequest(model=model)),
            house.model.Detokenize(wire.DetokenizeRequest(model=model)),
            house.model.GetModel(wire.GetModelRequest(model=model)),
            house.sessions.CreateSession(sessions_pb2.CreateSessionRequest(model=model)),
        ):
            code, _, details = await refusal(call)
            assert (code, details["ErrorInfo"].reason) == (Code.NOT_FOUND, "MODEL_NOT_FOUND")


async def test_a_foreign_session_is_as_unknown() -> None:
    """Callers are named in metadata: another's session gets the same answer as one that does not exist."""
    async with served(owner="x-owner") as house:
        ann, bob = (("x-owner", "ann"),), (("x-owner", "bob"),)
        await house.sessions.CreateSession(sessions_pb2.CreateSessionRequest(session_id="hers"), metadata=ann)

        def calls(session_id: str) -> list[Any]:
            return [
                house.model.Generate(wire.GenerateRequest(session_id=session_id), metadata=bob),
                house.sessions.GetSession(sessions_pb2.GetSessionRequest(session_id=session_id), metadata=bob),
                house.sessions.DeleteSession(sessions_pb2.DeleteSessionRequest(session_id=session_id), metadata=bob),
            ]

        for foreign, unknown in zip(calls("hers"), calls("none"), strict=True):
            code, message, details = await refusal(foreign)
            other_code, other_message, other_details = await refusal(unknown)
            assert (code, message, details) == (other_code, other_message.replace("none", "hers"), other_details)
        assert not (await house.sessions.ListSessions(sessions_pb2.ListSessionsRequest(), metadata=bob)).sessions
        assert (await house.sessions.ListSessions(sessions_pb2.ListSessionsRequest(), metadata=ann)).sessions


async def test_taken_expired_and_too_many_sessions() -> None:
    """They are ALREADY_EXISTS, FAILED_PRECONDITION and RESOURCE_EXHAUSTED with a hint when to try again."""
    small = Capacity(1, 2**20, evicts=False)
    async with served(Plan(store=lambda clock: MemoryStore(small, LIFETIMES, clock=clock))) as house:
        request = sessions_pb2.CreateSessionRequest(session_id="s")
        await house.sessions.CreateSession(request)
        code, _, details = await refusal(house.sessions.CreateSession(request))
        assert (code, details["ErrorInfo"].reason) == (Code.ALREADY_EXISTS, "SESSION_EXISTS")
        code, _, details = await refusal(house.sessions.CreateSession(sessions_pb2.CreateSessionRequest()))
        assert (code, details["ErrorInfo"].metadata["limit"]) == (Code.RESOURCE_EXHAUSTED, "max_sessions")
        assert details["RetryInfo"].retry_delay.seconds > 0
        house.world.clock.advance(100)
        code, _, details = await refusal(house.sessions.GetSession(sessions_pb2.GetSessionRequest(session_id="s")))
        assert (code, details["ErrorInfo"].reason) == (Code.FAILED_PRECONDITION, "SESSION_EXPIRED")
        assert house.world.value("refusals_total", reason="max_sessions") == 1


async def test_a_full_queue_is_resource_exhausted() -> None:
    """The call beyond the queue is refused at once and the others finish."""
    async with served(Plan(model=GatedModel(), bounds=make_bounds(max_lanes=1, max_queued_turns=1))) as house:
        house.gate.clear()
        request = wire.GenerateRequest(input=text("a"), sampling=GREEDY, max_tokens=2)
        first = asyncio.create_task(drain(house.model.Generate(request)))
        await until(lambda: "1 of 1 lanes busy" in repr(house.world.engine))
        second = asyncio.create_task(drain(house.model.Generate(request)))
        await until(lambda: "1 queued" in repr(house.world.engine))
        code, _, details = await refusal(house.model.Generate(request))
        assert (code, details["ErrorInfo"].metadata["limit"]) == (Code.RESOURCE_EXHAUSTED, "max_queued_turns")
        assert "RetryInfo" in details
        house.gate.set()
        assert (await first)[-1].finished == (await second)[-1].finished


async def test_open_calls_are_bounded() -> None:
    """Beyond max_streams a call is refused; when one has ended there is room again."""
    async with served(max_streams=1) as house:
        stream = house.model.Predict()
        await stream.write(wire.PredictRequest())
        await stream.read()
        request = wire.TokenizeRequest(text="a")
        code, _, details = await refusal(house.model.Tokenize(request))
        assert (code, details["ErrorInfo"].metadata["limit"]) == (Code.RESOURCE_EXHAUSTED, "max_streams")
        await house.model.ListModels(wire.ListModelsRequest())  # this one is not counted
        await stream.done_writing()
        assert await stream.read() == grpc.aio.EOF
        await house.model.Tokenize(request)


async def test_a_nan_is_internal_and_the_session_stays() -> None:
    """The call is MODEL_FAILED, and the session has not moved."""
    async with served() as house:
        await house.sessions.CreateSession(sessions_pb2.CreateSessionRequest(session_id="s"))
        house.world.plan.model.poison_id = 13
        code, _, details = await refusal(house.model.Generate(wire.GenerateRequest(session_id="s", input=tokens(13))))
        assert (code, details["ErrorInfo"].reason) == (Code.INTERNAL, "MODEL_FAILED")
        session = await house.sessions.GetSession(sessions_pb2.GetSessionRequest(session_id="s"))
        assert session.position == 0


async def test_an_unexpected_exception_keeps_its_text() -> None:
    """A defect reaches the client as INTERNAL without any of its text, and the next call works."""
    async with served() as house:
        secret = RuntimeError("the password is swordfish")
        house.world.sessions.check_model = _raising(secret)  # type: ignore[method-assign,assignment]
        for call in (
            house.model.GetModel(wire.GetModelRequest()),
            house.model.Generate(wire.GenerateRequest(input=text("a"))),
            house.model.Predict(iter([wire.PredictRequest()])),
        ):
            code, message, details = await refusal(call)
            assert (code, message) == (Code.INTERNAL, "internal error")
            assert "swordfish" not in str(details)
        del house.world.sessions.check_model
        await house.model.GetModel(wire.GetModelRequest())


def _raising(error: Exception) -> Callable[[str], None]:
    def check_model(model: str) -> None:
        raise error

    return check_model


async def test_a_message_that_is_too_big_is_refused() -> None:
    """gRPC itself refuses it beyond the limit, and the connection lives."""
    async with served() as house:
        request = wire.TokenizeRequest(text="a" * (MAX_MESSAGE_BYTES + 1))
        code, _, _ = await refusal(house.model.Tokenize(request))
        assert code is Code.RESOURCE_EXHAUSTED
        await house.model.ListModels(wire.ListModelsRequest())


async def test_input_is_bounded_by_the_limits() -> None:
    """The server's limits hold on the wire: one token too many is refused, and the bound passes."""
    async with served(Plan(limits=make_limits(max_input_tokens=3, max_generated_tokens=2))) as house:
        ok = wire.GenerateRequest(input=text("abc"), max_tokens=2)
        assert (await drain(house.model.Generate(ok)))[-1].finished.position == 5
        for bad in (
            wire.GenerateRequest(input=text("abcd"), max_tokens=2),
            wire.GenerateRequest(input=text("abc"), max_tokens=3),
        ):
            assert (await refusal(house.model.Generate(bad)))[0] is Code.INVALID_ARGUMENT
