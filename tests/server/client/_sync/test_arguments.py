# Generated from tests/server/client/_async/test_arguments.py by `make client`: change that file, not this one.
"""Every argument of every call reaches the server."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf import duration_pb2
from grpc_health.v1 import health_pb2
from tests.server.client._sync.conftest import read
from tests.server.fake_service import FakeService

from carousel.client import Client, ServerError, Session
from carousel.v1 import language_model_pb2 as lm
from carousel.v1 import sessions_pb2, types_pb2

Ask = Callable[..., Any]

TEXT = types_pb2.Input(text="ab")
TURN: dict[str, Any] = {"request_id": "own", "expected_position": 9}
BESIDE: dict[str, Any] = {"timeout_seconds": 15, "metadata": [("mark", "m")]}
HERE, AT_THREE = sessions_pb2.Point(checkpoint="here"), sessions_pb2.Point(position=3)
IDS = ["x", "y"]
GENERATE: dict[str, Any] = {"max_tokens": 1, "seed": 5, "stop": ["s"], "n": 2, "content": "both", **TURN}
GENERATED: dict[str, Any] = {
    "max_tokens": 1,
    "sampling": lm.Sampling(seed=5),
    "stop": ["s"],
    "n": 2,
    "content": 3,
    **TURN,
}
MINUTE = duration_pb2.Duration(seconds=60)

BY_ID: dict[str, tuple[Ask, Any]] = {
    "generate": (
        lambda client, **o: read(client.generate("ab", session_id="mine", model="m", **GENERATE, **o)),
        lm.GenerateRequest(session_id="mine", model="m", input=TEXT, **GENERATED),
    ),
    "generate from a state": (
        lambda client, **o: read(client.generate([1, 2], state=b"s", **o)),
        lm.GenerateRequest(state=b"s", input=types_pb2.Input(tokens=types_pb2.TokenIds(ids=[1, 2])), sampling={}),
    ),
    "predict": (
        lambda client, **o: client.predict(
            "ab", session_id="mine", model="m", k=2, word_prefix="p", num_words=3, **TURN, **o
        ),
        lm.PredictRequest(session_id="mine", model="m", input=TEXT, k=2, word_prefix="p", num_words=3, **TURN),
    ),
    "score": (
        lambda client, **o: read(client.score("ab", session_id="mine", model="m", top_g=3, **TURN, **o)),
        lm.ScoreRequest(session_id="mine", model="m", input=TEXT, g=3, **TURN),
    ),
    "tokenize": (lambda client, **o: client.tokenize("a", model="m", **o), lm.TokenizeRequest(text="a", model="m")),
    "detokenize": (
        lambda client, **o: client.detokenize([97], model="m", **o),
        lm.DetokenizeRequest(ids=[97], model="m"),
    ),
    "models": (lambda client, **o: client.models(**o), lm.ListModelsRequest()),
    "model": (lambda client, **o: client.model("m", **o), lm.GetModelRequest(model="m")),
    "is_serving": (lambda client, **o: client.is_serving("s", **o), health_pb2.HealthCheckRequest(service="s")),
    "create": (
        lambda client, **o: client.create_session("new", model="m", request_id="own", **o),
        sessions_pb2.CreateSessionRequest(session_id="new", model="m", request_id="own"),
    ),
    "get": (lambda client, **o: client.get_session("mine", **o), sessions_pb2.GetSessionRequest(session_id="mine")),
    "list": (lambda client, **o: read(client.list_sessions(**o)), sessions_pb2.ListSessionsRequest(page_size=500)),
    "delete": (
        lambda client, **o: client.delete_session("mine", request_id="own", **o),
        sessions_pb2.DeleteSessionRequest(session_id="mine", request_id="own"),
    ),
    "fork": (
        lambda client, **o: client.fork_session("mine", 2, position=3, new_ids=IDS, request_id="own", **o),
        sessions_pb2.ForkSessionRequest(
            session_id="mine", count=2, point=AT_THREE, new_session_ids=IDS, request_id="own"
        ),
    ),
    "fork a checkpoint": (
        lambda client, **o: client.fork_session("mine", checkpoint="here", request_id="own", **o),
        sessions_pb2.ForkSessionRequest(session_id="mine", point=HERE, request_id="own"),
    ),
    "rewind": (
        lambda client, **o: client.rewind_session("mine", position=3, **TURN, **o),
        sessions_pb2.RewindSessionRequest(session_id="mine", point=AT_THREE, **TURN),
    ),
    "rewind to a checkpoint": (
        lambda client, **o: client.rewind_session("mine", checkpoint="here", **TURN, **o),
        sessions_pb2.RewindSessionRequest(session_id="mine", point=HERE, **TURN),
    ),
    "checkpoint": (
        lambda client, **o: client.save_checkpoint("mine", "there", request_id="own", **o),
        sessions_pb2.SaveCheckpointRequest(session_id="mine", checkpoint="there", request_id="own"),
    ),
    "history": (
        lambda client, **o: client.get_history("mine", **o),
        sessions_pb2.GetHistoryRequest(session_id="mine"),
    ),
    "export": (
        lambda client, **o: client.export_session("mine", timedelta(minutes=1), position=3, **o),
        sessions_pb2.ExportSessionRequest(session_id="mine", ttl=MINUTE, point=AT_THREE),
    ),
    "export a checkpoint": (
        lambda client, **o: client.export_session("mine", checkpoint="here", **o),
        sessions_pb2.ExportSessionRequest(session_id="mine", point=HERE),
    ),
    "import": (
        lambda client, **o: client.import_session(b"at 3", "new", request_id="own", **o),
        sessions_pb2.ImportSessionRequest(state=b"at 3", session_id="new", request_id="own"),
    ),
    "inspect": (
        lambda client, **o: read(
            client.inspect("ab", session_id="mine", model="m", position=3, tensors=IDS, num_candidates=2, **o)
        ),
        sessions_pb2.InspectSessionRequest(
            session_id="mine", model="m", point=AT_THREE, input=TEXT, tensors=IDS, num_candidates=2
        ),
    ),
    "inspect the start": (
        lambda client, **o: read(client.inspect([1, 2], **o)),
        sessions_pb2.InspectSessionRequest(input=types_pb2.Input(tokens=types_pb2.TokenIds(ids=[1, 2]))),
    ),
    "watch": (lambda client, **o: client.watch(**o), sessions_pb2.WatchSessionsRequest()),
}
OF_SESSION: dict[str, tuple[Ask, Any]] = {
    "feed": (
        lambda session, **o: session.feed("ab", **TURN, **o),
        lm.GenerateRequest(session_id="mine", input=TEXT, max_tokens=0, sampling={}, **TURN),
    ),
    "generate": (
        lambda session, **o: read(session.generate("ab", **GENERATE, **o)),
        lm.GenerateRequest(session_id="mine", input=TEXT, **GENERATED),
    ),
    "predict": (
        lambda session, **o: session.predict("ab", k=2, word_prefix="p", num_words=3, **TURN, **o),
        lm.PredictRequest(session_id="mine", input=TEXT, k=2, word_prefix="p", num_words=3, **TURN),
    ),
    "score": (
        lambda session, **o: read(session.score("ab", top_g=3, **TURN, **o)),
        lm.ScoreRequest(session_id="mine", input=TEXT, g=3, **TURN),
    ),
    "fork": (
        lambda session, **o: session.fork(2, position=3, new_ids=IDS, request_id="own", **o),
        BY_ID["fork"][1],
    ),
    "fork a checkpoint": (
        lambda session, **o: session.fork(checkpoint="here", request_id="own", **o),
        BY_ID["fork a checkpoint"][1],
    ),
    "rewind": (lambda session, **o: session.rewind(position=3, **TURN, **o), BY_ID["rewind"][1]),
    "rewind to a checkpoint": (
        lambda session, **o: session.rewind(checkpoint="here", **TURN, **o),
        BY_ID["rewind to a checkpoint"][1],
    ),
    "checkpoint": (lambda session, **o: session.checkpoint("there", request_id="own", **o), BY_ID["checkpoint"][1]),
    "history": (lambda session, **o: session.history(**o), BY_ID["history"][1]),
    "export": (
        lambda session, **o: session.export(timedelta(minutes=1), position=3, **o),
        BY_ID["export"][1],
    ),
    "export a checkpoint": (
        lambda session, **o: session.export(checkpoint="here", **o),
        BY_ID["export a checkpoint"][1],
    ),
    "inspect a checkpoint": (
        lambda session, **o: read(session.inspect("ab", checkpoint="here", tensors=IDS, num_candidates=2, **o)),
        sessions_pb2.InspectSessionRequest(session_id="mine", point=HERE, input=TEXT, tensors=IDS, num_candidates=2),
    ),
    "get": (lambda session, **o: session.get(**o), BY_ID["get"][1]),
    "delete": (lambda session, **o: session.delete(request_id="own", **o), BY_ID["delete"][1]),
}


@pytest.fixture
def past(session: Session) -> None:
    """Creates what the calls ask for."""
    session.feed("abc")
    session.checkpoint("here")


@pytest.mark.usefixtures("past")
@pytest.mark.parametrize("name", BY_ID)
def test_a_calls_arguments_arrive(client: Client, service: FakeService, name: str) -> None:
    """The request arrives with the caller's own timeout and metadata, also when the answer is a refusal."""
    ask, wanted = BY_ID[name]
    with suppress(ServerError):
        ask(client, **BESIDE)
    _check(service, wanted)


@pytest.mark.usefixtures("past")
@pytest.mark.parametrize("name", OF_SESSION)
def test_a_sessions_arguments_arrive(client: Client, service: FakeService, name: str) -> None:
    """The same holds as by id; the caller's own id and expectation win over the session's."""
    ask, wanted = OF_SESSION[name]
    with suppress(ServerError):
        ask(client.open_session("mine", position=3), **BESIDE)
    _check(service, wanted)


def _check(service: FakeService, wanted: Any) -> None:
    last = service.seen[-1]
    request = service.requests[-1] if last.request is None else last.request
    if isinstance(wanted, lm.GenerateRequest) and not wanted.sampling.HasField("seed"):
        request.sampling.ClearField("seed")  # a session chooses one
    assert request == wanted
    assert last.metadata["mark"] == "m"
    session_id = getattr(wanted, "session_id", "")
    assert last.metadata.get("x-session-id", "") == session_id
    assert last.seconds_left is not None
    assert 5 < last.seconds_left < 16  # the client's default is 20


def test_the_clients_time_holds_where_a_call_brings_none(
    client: Client, session: Session, service: FakeService
) -> None:
    """This also holds for the creation of a session, and for a session that was opened by id."""
    session.feed("a")
    client.models()
    assert len(service.seen) == 3
    assert all(one.seconds_left is not None and 16 < one.seconds_left < 21 for one in service.seen)
