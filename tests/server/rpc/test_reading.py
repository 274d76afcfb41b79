"""A message that cannot be decoded is the caller's mistake, and every method says so."""

from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.server.logged import problems_in
from tests.server.rpc.desk import Desk, open_desk
from tests.server.rpc.served_house import refusal

from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import sessions_pb2

GARBAGE = (b"\xff\xff\xff", b"\x0a\x05ab", b"\x0a\x01\xff")  # no tag, cut short, no UTF-8
METHODS = [
    f"/{service.full_name}/{method.name}"
    for module in (wire, sessions_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
OTHERS = ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"]


def call(desk: Desk, path: str, content: bytes) -> Any:
    if path.endswith(("/Predict", "/ServerReflectionInfo")):
        return desk.channel.stream_stream(path)(iter([content]))
    if path.endswith(("/Generate", "/Score", "/Watch", "/WatchSessions", "/InspectSession")):
        return desk.channel.unary_stream(path)(content)
    return desk.channel.unary_unary(path)(content)


async def test_every_method_refuses_what_is_no_message(caplog: pytest.LogCaptureFixture) -> None:
    """Our services, health and reflection answer INVALID_ARGUMENT with a reason; nothing unexpected is logged, and
    afterwards the server serves."""
    async with open_desk() as desk:
        with structlog.testing.capture_logs() as lines:
            for path in [*METHODS, *OTHERS, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"]:
                for content in GARBAGE[:2] if path in METHODS else GARBAGE[:1]:
                    code, _, details = await refusal(call(desk, path, content))
                    found = (code, details["ErrorInfo"].reason)
                    assert found == (grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_INVALID"), (path, content)
        assert {line["event"] for line in lines} == {"call"}
        assert {line["reason"] for line in lines} == {"MESSAGE_INVALID"}
        assert problems_in(caplog) == []
        assert desk.sessions.seen == desk.operations.seen == desk.inspection.seen == []
        assert desk.value("requests_total", method="Generate", code="INVALID_ARGUMENT") == 2
        await desk.model.GetModel(wire.GetModelRequest())


async def test_text_that_is_no_utf8_is_no_message() -> None:
    """Strings of the wire are UTF-8."""
    async with open_desk() as desk:
        code, _, details = await refusal(call(desk, "/carousel.v1.LanguageModel/Tokenize", GARBAGE[2]))
        assert (code, details["ErrorInfo"].reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_INVALID")


async def test_a_later_message_of_a_stream_is_refused_too() -> None:
    """The messages before it were answered."""
    async with open_desk() as desk:
        path = "/carousel.v1.LanguageModel/Predict"
        stream = desk.channel.stream_stream(path, response_deserializer=wire.PredictResponse.FromString)()
        await stream.write(wire.PredictRequest().SerializeToString())
        assert (await stream.read()).position == 1
        await stream.write(GARBAGE[0])
        code, _, details = await refusal(stream.read())
        assert (code, details["ErrorInfo"].reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_INVALID")


async def test_health_and_reflection_answer_as_before() -> None:
    """The wrapping lets good messages through, to unary calls and streams."""
    async with open_desk() as desk:
        health = health_pb2_grpc.HealthStub(desk.channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == 1
        watching = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watching.read()).status == 1
        watching.cancel()
        stub = reflection_pb2_grpc.ServerReflectionStub(desk.channel)
        asked = [reflection_pb2.ServerReflectionRequest(list_services="")] * 2
        answers = [one async for one in stub.ServerReflectionInfo(iter(asked))]
        assert len(answers) == 2
        assert len(answers[0].list_services_response.service) == 4


async def test_an_unknown_method_is_unimplemented() -> None:
    """gRPC itself answers so."""
    async with open_desk() as desk:
        code, *_ = await refusal(desk.channel.unary_unary("/carousel.v1.LanguageModel/Nothing")(b""))
        assert code is grpc.StatusCode.UNIMPLEMENTED
