"""The services over a real port: every call, every error with its code and details, and every way a client can go."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from tests.bounds import make_bounds, make_connection_bounds, make_limits
from tests.fakes import GatedModel
from tests.server.hostile_peer import call_unread
from tests.worlds import LIFETIMES, Plan, World, running_world

from carousel.errors import SettingsInvalid
from carousel.identity.doorkeeper import Doorkeeper
from carousel.readiness import StoreHealth
from carousel.rpc import convert
from carousel.rpc.calls import RpcCalls
from carousel.rpc.errors import code_of
from carousel.rpc.server import RpcServer
from carousel.rpc.servicer import LanguageModelServicer
from carousel.rpc.session_servicer import SessionsServicer
from carousel.sessions.calls import Calls
from carousel.sessions.streams import StreamBounds
from carousel.settings import Settings
from carousel.state.memory import MemoryStore
from carousel.state.store import Capacity
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc, sessions_pb2, sessions_pb2_grpc, types_pb2

Code = grpc.StatusCode
GREEDY = wire.Sampling(temperature=0, seed=1)
LONG = make_limits(max_input_tokens=1000, max_generated_tokens=100_000, max_answer_items=10**7)
_MAX_MESSAGE_BYTES = 200_000
_ANEW = (("grpc.use_local_subchannel_pool", 1),)  # a connection of its own


@dataclass(frozen=True)
class House:
    """A served world with a client's stubs."""

    world: World
    server: RpcServer
    calls: Calls
    channel: Any
    model: Any  # the stubs, which have no types
    sessions: Any

    @property
    def gate(self) -> threading.Event:
        assert isinstance(self.world.plan.model, GatedModel)
        return self.world.plan.model.gate


@contextlib.asynccontextmanager
async def served(
    plan: Plan | None = None, *, max_streams: int = 100, owner: str = "", **bounds: Any
) -> AsyncIterator[House]:
    """`bounds` are those of connections."""
    async with running_world(plan or Plan(model=GatedModel(), limits=LONG)) as world:
        health = StoreHealth(world.metrics.store_is_up)
        calls = Calls(StreamBounds(max_streams), Doorkeeper(owner), world.metrics, health, code_of)
        description = convert.from_manifest(world.manifest, "cpu", Settings())
        services = (
            LanguageModelServicer(world.sessions, description, RpcCalls(calls)),
            SessionsServicer(world.sessions, world.operations, RpcCalls(calls)),
        )
        server = RpcServer(*services, RpcCalls(calls).admit, make_connection_bounds(_MAX_MESSAGE_BYTES, **bounds))
        await server.start("127.0.0.1:0")
        await server.set_ready(is_ready=True)
        try:
            async with grpc.aio.insecure_channel(server.address) as channel:
                model = language_model_pb2_grpc.LanguageModelStub(channel)
                yield House(world, server, calls, channel, model, sessions_pb2_grpc.SessionsStub(channel))
        finally:
            if isinstance(world.plan.model, GatedModel):
                world.plan.model.gate.set()
            await server.stop(0)


def text(value: str) -> types_pb2.Input:
    return types_pb2.Input(text=value)


def tokens(*ids: int) -> types_pb2.Input:
    return types_pb2.Input(tokens=types_pb2.TokenIds(ids=ids))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


async def refusal(call: Any) -> tuple[grpc.StatusCode, str, dict[str, Any]]:
    """Code, message and details by name of a call, unary or streaming, that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await (_drain(call) if hasattr(call, "__aiter__") else call)
    status = rpc_status.from_call(error.value)
    details = {}
    for packed in status.details if status is not None else ():
        kind = packed.TypeName().rpartition(".")[2]
        message = getattr(error_details_pb2, kind)()
        packed.Unpack(message)
        details[kind] = message
    assert error.value.details()
    return error.value.code(), error.value.details(), details


async def _drain(call: Any) -> list[Any]:
    return [message async for message in call]


async def test_generate_streams_tokens_and_ends_once() -> None:
    """Tokens and text come in pieces that join to the oracle's; only the last carries `finished`."""
    async with served() as house:
        request = wire.GenerateRequest(input=text("abc"), sampling=GREEDY, max_tokens=20, num_log_probabilities=2)
        messages = await _drain(house.model.Generate(request))
        assert [one.HasField("finished") for one in messages] == [False] * (len(messages) - 1) + [True]
        oracle = house.world.oracle
        expected, _ = oracle.greedy(oracle.start(), (1, 2, 3), 20)
        found = [token for one in messages for token in one.tokens]
        assert [token.id for token in found] == expected
        assert all(token.HasField("log_probability") and len(token.candidates) == 2 for token in found)
        assert "".join(one.text for one in messages) == house.world.plan.tokenizer.decode(expected)
        end = messages[-1].finished
        assert (end.reason, end.position, end.num_input_tokens) == (wire.Finished.REASON_LENGTH, 23, 3)
        assert (end.num_generated_tokens, end.seed) == (20, 1)


@pytest.mark.parametrize(
    ("content", "has_ids", "has_text"),
    [
        (wire.GenerateRequest.CONTENT_UNSPECIFIED, True, True),
        (wire.GenerateRequest.CONTENT_BOTH, True, True),
        (wire.GenerateRequest.CONTENT_IDS, True, False),
        (wire.GenerateRequest.CONTENT_TEXT, False, True),
    ],
)
async def test_generate_answers_what_was_wanted(
    content: wire.GenerateRequest.Content, has_ids: bool, has_text: bool
) -> None:
    """Ids, text or both, as asked; without log-probabilities there are none."""
    async with served() as house:
        request = wire.GenerateRequest(input=text("a"), sampling=GREEDY, max_tokens=9, content=content)
        messages = await _drain(house.model.Generate(request))
        found = [token for one in messages for token in one.tokens]
        assert bool(found) == has_ids
        assert not any(token.HasField("log_probability") or token.candidates for token in found)
        assert bool("".join(one.text for one in messages)) == has_text
        assert messages[-1].finished.num_generated_tokens == 9


async def test_state_is_carried_from_request_to_request() -> None:
    """Requests on a session continue each other over Generate, Predict and Score alike."""
    async with served() as house:
        await house.sessions.CreateSession(sessions_pb2.CreateSessionRequest(session_id="s"))
        await _drain(house.model.Score(wire.ScoreRequest(session_id="s", input=text("ab"))))
        stream = house.model.Predict(iter([wire.PredictRequest(session_id="s", input=text("c"))]))
        assert [one.position for one in await _drain(stream)] == [3]
        messages = await _drain(
            house.model.Generate(wire.GenerateRequest(session_id="s", input=text("d"), sampling=GREEDY, max_tokens=5))
        )
        oracle = house.world.oracle
        expected, _ = oracle.greedy(oracle.start(), (1, 2, 3, 4), 5)
        assert [token.id for one in messages for token in one.tokens] == expected
        session = await house.sessions.GetSession(sessions_pb2.GetSessionRequest(session_id="s"))
        assert session.position == messages[-1].finished.position == 9


async def test_predict_without_a_session_carries_its_own_state() -> None:
    """Each message goes on where the one before stopped; an empty one asks again; words come when asked for."""
    async with served() as house:
        stream = house.model.Predict()
        await stream.write(wire.PredictRequest(input=text("ab"), k=3))
        first = await stream.read()
        await stream.write(wire.PredictRequest(input=text("c"), k=3))
        second = await stream.read()
        await stream.write(wire.PredictRequest(k=3, word_prefix="d"))
        third = await stream.read()
        await stream.done_writing()
        assert await stream.read() == grpc.aio.EOF
        assert [one.position for one in (first, second, third)] == [2, 3, 3]
        assert list(second.candidates) == list(third.candidates)
        assert len(first.candidates) == 3
        assert third.words
        logits_V = house.world.oracle.logits(house.world.oracle.feed(house.world.oracle.start(), (1, 2, 3)))
        assert second.candidates[0].id == int(logits_V.argmax())
        assert await house.world.store.num_live() == 0


async def test_score_rates_every_token() -> None:
    """All tokens come, in order, and the last message has the totals."""
    async with served() as house:
        messages = await _drain(house.model.Score(wire.ScoreRequest(input=text("abcabc" * 20), g=3)))
        found = [token for one in messages for token in one.tokens]
        assert "".join(token.text for token in found) == "abcabc" * 20
        totals = messages[-1].totals
        assert totals.num_tokens == totals.position == 120
        assert totals.num_hits == sum(token.rank <= 3 for token in found)
        assert totals.log_probability == pytest.approx(sum(token.log_probability for token in found), rel=1e-5)


async def test_tokenize_and_detokenize_are_opposites() -> None:
    """Ids and their texts, and back."""
    async with served() as house:
        found = await house.model.Tokenize(wire.TokenizeRequest(text="abc\n"))
        assert [(token.id, token.text) for token in found.tokens] == [(1, "a"), (2, "b"), (3, "c"), (15, "\n")]
        back = await house.model.Detokenize(wire.DetokenizeRequest(ids=[token.id for token in found.tokens]))
        assert back.text == "abc\n"


async def test_the_model_is_described() -> None:
    """GetModel by any of its names and ListModels give the same description."""
    async with served() as house:
        one = await house.model.GetModel(wire.GetModelRequest(model="toy"))
        assert (one.name, one.digest, one.provider) == ("toy", house.world.manifest.digest, "cpu")
        assert (one.vocabulary_size, one.state_bytes, one.limits.max_message_bytes) == (16, 24, 1_048_576)
        assert list((await house.model.ListModels(wire.ListModelsRequest())).models) == [one]


async def test_the_life_of_a_session() -> None:
    """Create, get, list in pages, delete."""
    async with served() as house:
        made = []
        for _ in range(5):
            made.append(await house.sessions.CreateSession(sessions_pb2.CreateSessionRequest()))
            house.world.clock.advance(1)
        assert len({one.session_id for one in made}) == 5
        got = await house.sessions.GetSession(sessions_pb2.GetSessionRequest(session_id=made[2].session_id))
        assert got == made[2]
        assert (got.model, got.position, got.model_digest) == ("toy", 0, house.world.manifest.digest)
        assert got.expire_time.seconds == got.create_time.seconds + 100
        listed, page_token = [], ""
        for size in (2, 2, 1):
            request = sessions_pb2.ListSessionsRequest(page_size=2, page_token=page_token)
            page = await house.sessions.ListSessions(request)
            assert len(page.sessions) == size
            listed.extend(page.sessions)
            page_token = page.next_page_token
        assert (listed, page_token) == (made, "")
        await house.sessions.DeleteSession(sessions_pb2.DeleteSessionRequest(session_id=made[0].session_id))
        left = await house.sessions.ListSessions(sessions_pb2.ListSessionsRequest())
        assert list(left.sessions) == made[1:]


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
    """Every call that names it says so, however long the name."""
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
    """With callers named in metadata, another's session gets the very answer of one that does not exist."""
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
    """ALREADY_EXISTS, FAILED_PRECONDITION and RESOURCE_EXHAUSTED with a hint when to try again."""
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
        first = asyncio.create_task(_drain(house.model.Generate(request)))
        await until(lambda: "1 of 1 lanes busy" in repr(house.world.engine))
        second = asyncio.create_task(_drain(house.model.Generate(request)))
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
    """MODEL_FAILED, and the session has not moved."""
    async with served() as house:
        await house.sessions.CreateSession(sessions_pb2.CreateSessionRequest(session_id="s"))
        house.world.plan.model.poison_id = 13
        code, _, details = await refusal(house.model.Generate(wire.GenerateRequest(session_id="s", input=tokens(13))))
        assert (code, details["ErrorInfo"].reason) == (Code.INTERNAL, "MODEL_FAILED")
        session = await house.sessions.GetSession(sessions_pb2.GetSessionRequest(session_id="s"))
        assert session.position == 0


async def test_an_unexpected_exception_keeps_its_text() -> None:
    """A defect reaches the client as INTERNAL without a word of it, and the next call works."""
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
    """Beyond the limit gRPC itself refuses; the connection lives."""
    async with served() as house:
        request = wire.TokenizeRequest(text="a" * (_MAX_MESSAGE_BYTES + 1))
        code, _, _ = await refusal(house.model.Tokenize(request))
        assert code is Code.RESOURCE_EXHAUSTED
        await house.model.ListModels(wire.ListModelsRequest())


async def test_garbage_on_the_port_harms_nobody() -> None:
    """Bytes that are no HTTP/2 end their own connection; callers before and after are served."""
    async with served() as house:
        host, port = house.server.address.rsplit(":", 1)
        for garbage in (
            b"\0" * 4096,
            b"GET / HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 999,
            b"",
        ):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(garbage)
            await house.model.ListModels(wire.ListModelsRequest())


@pytest.mark.parametrize("has_read", [True, False])
async def test_a_client_that_goes_frees_its_lane(has_read: bool) -> None:
    """Cancelled mid-stream, reading or not, the call is CANCELLED, its lane is free, its session where it was."""
    async with served() as house:
        await house.sessions.CreateSession(sessions_pb2.CreateSessionRequest(session_id="s"))
        request = wire.GenerateRequest(
            session_id="s", input=text("a"), sampling=GREEDY, max_tokens=100_000, num_log_probabilities=16
        )
        stream = house.model.Generate(request)
        if has_read:
            await stream.read()
        else:
            await until(lambda: house.world.value("generated_tokens_total") > 0)
        stream.cancel()
        await until(lambda: house.world.is_idle)
        await until(lambda: house.world.value("requests_total", method="Generate", code="CANCELLED") == 1)
        assert house.world.value("running_requests", method="Generate") == 0
        session = await house.sessions.GetSession(sessions_pb2.GetSessionRequest(session_id="s"))
        assert session.position == 0


class Wire:
    """A connection to a server that stops carrying bytes, and can be cut without a good-bye."""

    def __init__(self, address: str) -> None:
        self._server_host, _, self._server_port = address.rpartition(":")
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.flows = asyncio.Event()
        self.flows.set()
        self.num_carried = 0  # pieces, both ways

    async def open(self) -> str:
        self._listener = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        return f"127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._server_host, int(self._server_port))
        self._writers += [writer, far_writer]
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            self._tasks.append(asyncio.create_task(self._carry(source, sink)))

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while content := await source.read(4096):
                await self.flows.wait()
                sink.write(content)
                await sink.drain()
                self.num_carried += 1

    async def cut(self) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()


@pytest.mark.parametrize("is_stuck", [True, False])
async def test_a_connection_that_breaks_frees_the_lane(is_stuck: bool) -> None:
    """When the network goes, also while nobody reads and the stream is full, nothing is left open."""
    async with served() as house:
        cable = Wire(house.server.address)
        async with grpc.aio.insecure_channel(await cable.open()) as channel:
            stub = language_model_pb2_grpc.LanguageModelStub(channel)
            request = wire.GenerateRequest(
                input=text("a"), sampling=GREEDY, max_tokens=100_000, num_log_probabilities=16
            )
            stream = stub.Generate(request)
            await stream.read()
            if is_stuck:
                cable.flows.clear()
                await until(lambda: house.world.value("consumed_tokens_total") > 1_500)
            await cable.cut()
            assert await stream.code() is Code.UNAVAILABLE
        await until(lambda: house.world.is_idle)
        await until(lambda: house.world.value("requests_total", method="Generate", code="CANCELLED") == 1)
        assert house.calls._open == {}


async def test_a_deadline_that_passes_frees_the_lane() -> None:
    """The client gets DEADLINE_EXCEEDED, the server lets go, the session stays."""
    async with served() as house:
        await house.sessions.CreateSession(sessions_pb2.CreateSessionRequest(session_id="s"))
        request = wire.GenerateRequest(session_id="s", input=text("a"), sampling=GREEDY, max_tokens=100_000)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await _drain(house.model.Generate(request, timeout=0.15))
        assert error.value.code() is Code.DEADLINE_EXCEEDED
        await until(lambda: house.world.is_idle)
        session = await house.sessions.GetSession(sessions_pb2.GetSessionRequest(session_id="s"))
        assert session.position == 0


async def test_shutdown_ends_every_open_call_with_unavailable() -> None:
    """A Generate that runs and a Predict that idles both end with UNAVAILABLE and a reason; new calls are refused."""
    async with served() as house:
        idle = house.model.Predict()
        await idle.write(wire.PredictRequest())
        await idle.read()
        house.gate.clear()
        running = asyncio.create_task(refusal(house.model.Generate(wire.GenerateRequest(input=text("a")))))
        await until(lambda: not house.world.is_idle)
        await house.world.engine.drain(0)
        await house.calls.finish(5)
        house.gate.set()
        code, _, details = await running
        assert (code, details["ErrorInfo"].reason) == (Code.UNAVAILABLE, "SHUTTING_DOWN")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            assert await idle.read() != grpc.aio.EOF
        assert error.value.code() is Code.UNAVAILABLE
        code, _, details = await refusal(house.model.Generate(wire.GenerateRequest(input=text("a"))))
        assert (code, details["ErrorInfo"].reason) == (Code.UNAVAILABLE, "SHUTTING_DOWN")
        print(house.world.engine, house.world.value("consumed_tokens_total"))
        assert house.calls._open == {}


async def test_health_follows_readiness() -> None:
    """SERVING when ready, for the whole and for each service; NOT_SERVING otherwise; unknown services are unknown."""
    async with served() as house:
        health = health_pb2_grpc.HealthStub(house.channel)
        names = ("", "carousel.v1.LanguageModel", "carousel.v1.Sessions")
        for is_ready, status in ((True, health_pb2.HealthCheckResponse.SERVING), (False, 2)):
            await house.server.set_ready(is_ready=is_ready)
            for name in names:
                assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == status
        code, *_ = await _code_of(health.Check(health_pb2.HealthCheckRequest(service="other")))
        assert code is Code.NOT_FOUND


async def test_a_watcher_of_health_who_does_not_read_stops_nobody() -> None:
    """Statuses are set and told to others while somebody has left no room for his."""
    async with served() as house:
        with call_unread(house.server.address, b"grpc.health.v1.Health/Watch"):
            await asyncio.sleep(0.2)
            async with asyncio.timeout(5):
                await house.server.set_ready(is_ready=False)
            health = health_pb2_grpc.HealthStub(house.channel)
            assert (await health.Check(health_pb2.HealthCheckRequest())).status == 2


async def test_a_watcher_of_health_who_leaves_takes_nobody_along() -> None:
    """The others hear of the next change."""
    async with served() as house:
        health = health_pb2_grpc.HealthStub(house.channel)
        staying, leaving = (health.Watch(health_pb2.HealthCheckRequest()) for _ in range(2))
        assert [(await staying.read()).status, (await leaving.read()).status] == [1, 1]
        leaving.cancel()
        await asyncio.sleep(0.1)
        await house.server.set_ready(is_ready=False)
        async with asyncio.timeout(5):
            assert (await staying.read()).status == 2


async def test_watches_of_health_are_bounded() -> None:
    """A connection may have so many, the refusal says so, and one that ends makes room."""
    async with served(max_health_watches=3) as house:
        health = health_pb2_grpc.HealthStub(house.channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(3)]
        assert [(await watch.read()).status for watch in watches] == [1] * 3
        code, _, details = await refusal(health.Watch(health_pb2.HealthCheckRequest(), timeout=5))
        assert (code, details["ErrorInfo"].metadata["limit"]) == (Code.RESOURCE_EXHAUSTED, "max_health_watches")
        watches[0].cancel()
        await asyncio.sleep(0.1)
        assert (await health.Watch(health_pb2.HealthCheckRequest()).read()).status == 1


async def _hear(address: str) -> bytes:
    """All that the server says to a connection that says nothing, until it closes that."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


async def test_a_connection_that_does_not_begin_is_closed() -> None:
    """It says nothing, not even that it speaks HTTP/2."""
    async with served(handshake_seconds=0.2) as house:
        assert await _hear(house.server.address)  # what a server begins with, and then the end


async def test_connections_are_bounded() -> None:
    """One too many is closed at once, those that are open go on, and one that ends makes room."""
    async with served(max_connections=2) as house:
        health = health_pb2_grpc.HealthStub(house.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == 1
        host, _, port = house.server.address.rpartition(":")
        _, second = await asyncio.open_connection(host, int(port))
        with contextlib.suppress(ConnectionResetError):
            assert await _hear(house.server.address) == b""
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == 1
        second.close()
        async with grpc.aio.insecure_channel(house.server.address, _ANEW) as channel:
            again = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=10
            )
            assert (await again).status == 1


async def test_a_connection_without_calls_is_closed_and_made_anew() -> None:
    """Its client notices nothing: the next call connects again. One with a call stays."""
    async with served(idle_seconds=0.2) as house, grpc.aio.insecure_channel(house.server.address, _ANEW) as busy:
        watch = health_pb2_grpc.HealthStub(busy).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == 1
        health = health_pb2_grpc.HealthStub(house.channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == 1
        async with asyncio.timeout(10):
            state = house.channel.get_state()
            while state is grpc.ChannelConnectivity.READY:
                await house.channel.wait_for_state_change(state)
                state = house.channel.get_state()
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == 1
        await house.server.set_ready(is_ready=False)
        assert (await watch.read()).status == 2


async def _code_of(call: Any) -> tuple[grpc.StatusCode]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return (error.value.code(),)


async def test_reflection_lists_the_services() -> None:
    """A client without the proto files can find them."""
    async with served() as house:
        stub = reflection_pb2_grpc.ServerReflectionStub(house.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answer = (await _drain(stub.ServerReflectionInfo(iter([request]))))[0]
        names = {service.name for service in answer.list_services_response.service}
        assert {"carousel.v1.LanguageModel", "carousel.v1.Sessions", "grpc.health.v1.Health"} <= names


async def test_a_port_that_is_taken_is_a_settings_error() -> None:
    """Binding where another server listens names the address, and says so."""
    async with served() as house:
        other = RpcServer(
            LanguageModelServicer(house.world.sessions, wire.Model(), RpcCalls(house.calls)),
            SessionsServicer(house.world.sessions, house.world.operations, RpcCalls(house.calls)),
            RpcCalls(house.calls).admit,
            make_connection_bounds(1000),
        )
        with pytest.raises(SettingsInvalid, match=f"listen: .*{house.server.address}: another server is there$"):
            await other.start(house.server.address)


@pytest.mark.parametrize("address", ["203.0.113.7:50051", "[2001:db8::7]:50051", "no-such-host.invalid:50051"])
async def test_an_address_that_is_not_ours_is_told_as_the_system_tells_it(address: str) -> None:
    """No other server is suspected where there cannot be one."""
    async with served() as house:
        other = RpcServer(
            LanguageModelServicer(house.world.sessions, wire.Model(), RpcCalls(house.calls)),
            SessionsServicer(house.world.sessions, house.world.operations, RpcCalls(house.calls)),
            RpcCalls(house.calls).admit,
            make_connection_bounds(1000),
        )
        with pytest.raises(SettingsInvalid) as refused:
            await other.start(address)
    assert str(refused.value).startswith(f"listen: cannot bind {address}: ")
    assert "another server" not in str(refused.value)
    assert "not free" not in str(refused.value)


async def test_every_call_is_counted_by_method_and_code() -> None:
    """Requests and latency are told apart by method and code, and none is left running."""
    async with served() as house:
        await house.model.ListModels(wire.ListModelsRequest())
        await refusal(house.model.GetModel(wire.GetModelRequest(model="x")))
        value = house.world.value
        assert value("requests_total", method="ListModels", code="OK") == 1
        assert value("requests_total", method="GetModel", code="NOT_FOUND") == 1
        assert value("request_seconds_count", method="GetModel", code="NOT_FOUND") == 1
        assert value("running_requests", method="GetModel") == 0


async def test_input_is_bounded_by_the_limits() -> None:
    """The limits of the server hold on the wire: one token too many is refused, the bound passes."""
    async with served(Plan(limits=make_limits(max_input_tokens=3, max_generated_tokens=2))) as house:
        ok = wire.GenerateRequest(input=text("abc"), max_tokens=2)
        assert (await _drain(house.model.Generate(ok)))[-1].finished.position == 5
        for bad in (
            wire.GenerateRequest(input=text("abcd"), max_tokens=2),
            wire.GenerateRequest(input=text("abc"), max_tokens=3),
        ):
            assert (await refusal(house.model.Generate(bad)))[0] is Code.INVALID_ARGUMENT
