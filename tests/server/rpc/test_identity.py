"""Over gRPC nobody makes a call that the principals do not allow, whichever service has it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from tests.server.rpc.desk import Desk, open_desk
from tests.server.rpc.served_house import refusal
from tests.server.rpc.test_reading import METHODS, OTHERS, call

from carousel.identity.doorkeeper import Doorkeeper
from carousel.identity.principals import Principals, digest, read_principals
from carousel.identity.scopes import HEALTH
from carousel.identity.watched_files import WatchedFiles
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import sessions_pb2

Code = grpc.StatusCode
REFLECTION_METHOD = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
TOKENS = {name: f"crl_{name}{'x' * 40}" for name in ("reader", "all", "nobody")}
FILE = f"""
[[principal]]
name = "reader"
tokens = ["{digest(TOKENS["reader"])}"]
scopes = ["sessions"]

[[principal]]
name = "all"
tokens = ["{digest(TOKENS["all"])}"]
scopes = ["admin"]

[[principal]]
name = "nobody"
tokens = ["{digest(TOKENS["nobody"])}"]
scopes = []
"""


@pytest.fixture
def files(tmp_path: Path) -> WatchedFiles[Principals]:
    path = tmp_path / "principals.toml"
    path.write_text(FILE)
    return WatchedFiles("principals", [path], lambda: read_principals(path), lambda name, is_good: None)


@pytest.fixture
async def desk(files: WatchedFiles[Principals]) -> AsyncIterator[Desk]:
    async with open_desk(doorkeeper=Doorkeeper("", files, "toy")) as desk:
        yield desk


def bearer(name: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {TOKENS[name]}"),)


def start(desk: Desk, path: str, metadata: tuple[tuple[str, str], ...] = ()) -> Any:
    """A call with an empty message, which every method can read."""
    if path.endswith(("/Predict", "/PredictMany", "/ServerReflectionInfo")):
        return desk.channel.stream_stream(path)(iter([b""]), metadata=metadata)
    if path.endswith(("/Generate", "/Score", "/Watch", "/WatchSessions", "/InspectSession")):
        return desk.channel.unary_stream(path)(b"", metadata=metadata)
    return desk.channel.unary_unary(path)(b"", metadata=metadata)


async def test_every_method_refuses_the_unknown_and_those_without_its_scope(desk: Desk) -> None:
    """Of all services, and nothing is asked of what is behind them."""
    with structlog.testing.capture_logs() as lines:
        for path in [*METHODS, *OTHERS, REFLECTION_METHOD]:
            code, _, details = await refusal(start(desk, path))
            assert (code, details["ErrorInfo"].reason) == (Code.UNAUTHENTICATED, "UNAUTHENTICATED"), path
            desk.calls._doorkeeper._wrong._spent.clear()  # the next one is not too many
            code, _, details = await refusal(start(desk, path, bearer("nobody")))
            assert (code, details["ErrorInfo"].reason) == (Code.PERMISSION_DENIED, "PERMISSION_DENIED"), path
    assert desk.sessions.seen == desk.operations.seen == desk.inspection.seen == []
    assert len(lines) == 2 * len([*METHODS, *OTHERS, REFLECTION_METHOD])
    assert {(line["event"], line["reason"]) for line in lines} == {
        ("call", "UNAUTHENTICATED"),
        ("call", "PERMISSION_DENIED"),
    }
    assert {line.get("principal", "") for line in lines} == {"", "nobody"}
    assert desk.value("refusals_total", reason="unauthenticated") == len(lines) / 2
    assert desk.value("refusals_total", reason="permission_denied") == len(lines) / 2


async def test_what_cannot_be_read_is_no_way_around(desk: Desk) -> None:
    """Who is unknown does not even hear that his message was none."""
    for path in (*METHODS, *OTHERS):
        code, _, _ = await refusal(call(desk, path, b"\xff\xff\xff"))
        assert code in (Code.UNAUTHENTICATED, Code.RESOURCE_EXHAUSTED), path


async def test_a_scope_opens_its_methods_and_no_others(desk: Desk) -> None:
    """The sessions are those of the principal, whose name stands in the log."""
    with structlog.testing.capture_logs() as lines:
        row = await desk.life.CreateSession(sessions_pb2.CreateSessionRequest(), metadata=bearer("reader"))
    assert ("reader", row.session_id) in desk.operations.rows
    assert lines[0]["principal"] == "reader"
    await desk.model.GetModel(wire.GetModelRequest(), metadata=bearer("reader"))
    request = wire.TokenizeRequest(text="a")
    code, _, _ = await refusal(desk.model.Tokenize(request, metadata=bearer("reader")))
    assert code is Code.PERMISSION_DENIED
    await desk.model.Tokenize(request, metadata=bearer("all"))


async def test_many_wrong_attempts_are_told_to_wait(desk: Desk) -> None:
    """They do not hold up what is right, which comes from the same host."""
    request, wrong = wire.GetModelRequest(), (("authorization", "Bearer wrong"),)
    codes = [(await refusal(desk.model.GetModel(request, metadata=wrong)))[0] for _ in range(25)]
    assert codes[:20] == [Code.UNAUTHENTICATED] * 20
    assert codes[-1] is Code.RESOURCE_EXHAUSTED
    _, _, details = await refusal(desk.model.GetModel(request, metadata=wrong))
    assert details["ErrorInfo"].metadata["limit"] == "wrong_attempts"
    assert details["RetryInfo"].retry_delay.ToTimedelta().total_seconds() > 0
    await desk.model.GetModel(request, metadata=bearer("reader"))


async def test_health_may_need_no_identity(files: WatchedFiles[Principals]) -> None:
    """Nor an owner; reflection still needs one."""
    async with open_desk(doorkeeper=Doorkeeper("x-owner", files, "toy", anonymous=[HEALTH])) as desk:
        assert await start(desk, "/grpc.health.v1.Health/Check") == b"\x08\x01"
        code, _, _ = await refusal(start(desk, REFLECTION_METHOD))
        assert code is Code.UNAUTHENTICATED


async def test_a_stream_ends_when_its_principal_is_gone(
    desk: Desk, files: WatchedFiles[Principals], tmp_path: Path
) -> None:
    """Within one look at the file; streams of others go on."""
    path = "/carousel.v1.Sessions/WatchSessions"
    streams = [desk.channel.unary_stream(path)(b"", metadata=bearer(name)) for name in ("reader", "all")]
    for stream in streams:
        await stream.initial_metadata()  # it is open
    (tmp_path / "principals.toml").write_text(FILE.replace(digest(TOKENS["reader"]), digest("another")))
    assert files.look()
    desk.calls.check_again()
    code, _, details = await refusal(streams[0])
    assert (code, details["ErrorInfo"].reason) == (Code.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert not streams[1].done()
    streams[1].cancel()
