"""InspectSession over a real port: states come token by token, and a caller needs what he reads."""

from pathlib import Path
from typing import Any

import grpc
import numpy as np
import structlog
from tests.fakes import GatedModel
from tests.server.rpc.desk import open_desk
from tests.server.rpc.served_house import LONG, House, drain, refusal, served, text, tokens, until
from tests.worlds import Plan

from carousel.identity.doorkeeper import Doorkeeper
from carousel.identity.principals import digest, read_principals
from carousel.identity.watched_files import WatchedFiles
from carousel.sessions.inspection import InspectionRequest
from carousel.sessions.operations import Point
from carousel.sessions.requests import Caller
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import sessions_pb2

Code = grpc.StatusCode
Request = sessions_pb2.InspectSessionRequest


def fresh() -> Plan:
    """A plan that allows it."""
    return Plan(model=GatedModel(), limits=LONG, settings={"inspect": True})


async def feed(house: House, *ids: int) -> None:
    await drain(house.model.Generate(wire.GenerateRequest(session_id="s", input=tokens(*ids), max_tokens=0)))


async def create(house: House, session_id: str = "s") -> None:
    await house.sessions.CreateSession(sessions_pb2.CreateSessionRequest(session_id=session_id))


async def test_states_come_token_by_token() -> None:
    """First what the values are and where the reading starts; then each token, with its rating and the state after."""
    async with served(fresh()) as house:
        await create(house)
        await feed(house, 3, 4)
        with structlog.testing.capture_logs() as lines:
            request = Request(session_id="s", point=sessions_pb2.Point(position=2), input=text("ab"), num_candidates=2)
            first, *rest = await drain(house.sessions.InspectSession(request))
        assert [(one.name, list(one.shape), one.dtype) for one in first.tensors] == [
            ("h", [4], "float32"),
            ("count", [], "int64"),
        ]
        assert not first.HasField("token")
        assert [len(one.tensors) for one in rest] == [0, 0]
        assert [one.position for one in (first, *rest)] == [2, 3, 4]
        oracle = house.world.oracle
        for number, message in enumerate((first, *rest)):
            state = oracle.feed(oracle.start(), (3, 4, 1, 2)[: 2 + number]).state
            assert message.values[0] == np.asarray(state[0], "<f4").tobytes()
            assert message.values[1] == (3 + number).to_bytes(8, "little")
        assert [(one.token.id, one.token.text, len(one.token.candidates)) for one in rest] == [(1, "a", 2), (2, "b", 2)]
        assert all(one.token.rank >= 1 and one.token.candidates[0].text for one in rest)
        scored = await drain(house.model.Score(wire.ScoreRequest(session_id="s", input=text("ab"))))
        rated = [(token.log_probability, token.rank) for message in scored for token in message.tokens]
        assert [(one.token.log_probability, one.token.rank) for one in rest] == rated
    (line,) = (one for one in lines if one["event"] == "call")
    assert (line["method"], line["code"], line["num_input_tokens"]) == ("InspectSession", "OK", 2)


async def test_the_ways_a_reading_is_refused() -> None:
    """Each has its code and reason, and the field where one is wrong; lists are refused before they are read."""
    async with served(fresh()) as house:
        await create(house)
        here = sessions_pb2.Point(checkpoint="none")
        for request, code, reason, facts in (
            (Request(session_id="none"), Code.NOT_FOUND, "SESSION_NOT_FOUND", {}),
            (Request(model="none"), Code.NOT_FOUND, "MODEL_NOT_FOUND", {}),
            (Request(session_id="s", point=here), Code.FAILED_PRECONDITION, "POSITION_UNKNOWN", {}),
            (Request(point=here), Code.INVALID_ARGUMENT, "INVALID_REQUEST", {"field": "point"}),
            (Request(tensors=["no"]), Code.INVALID_ARGUMENT, "INVALID_REQUEST", {"field": "tensors"}),
            (Request(tensors=[""] * 3), Code.INVALID_ARGUMENT, "INVALID_REQUEST", {"field": "tensors"}),
            (Request(input=tokens(*[1] * 1025)), Code.INVALID_ARGUMENT, "INVALID_REQUEST", {"field": "input"}),
            (Request(input=text("a" * 1025)), Code.INVALID_ARGUMENT, "INVALID_REQUEST", {"field": "input"}),
            (Request(num_candidates=65), Code.INVALID_ARGUMENT, "INVALID_REQUEST", {"field": "num_candidates"}),
        ):
            found, _, details = await refusal(house.sessions.InspectSession(request))
            assert (found, details["ErrorInfo"].reason) == (code, reason)
            assert dict(details["ErrorInfo"].metadata) == facts


async def test_a_server_without_the_setting_says_which() -> None:
    """That is how a program learns it."""
    async with served() as house:
        code, message, details = await refusal(house.sessions.InspectSession(Request(input=text("a"))))
        assert (code, details["ErrorInfo"].reason) == (Code.PERMISSION_DENIED, "PERMISSION_DENIED")
        assert dict(details["ErrorInfo"].metadata) == {"setting": "inspect"}
        assert "inspect=true" in message


async def test_who_leaves_is_forgotten() -> None:
    """The call ends while its token runs, and the lane is free."""
    async with served(fresh()) as house:
        await create(house)
        model: Any = house.world.plan.model
        model.close()
        call = house.sessions.InspectSession(Request(session_id="s", input=text("a" * 1000)))
        await call.read()  # the state where it starts
        await model.until_held()
        call.cancel()
        await until(lambda: house.world.value("requests_total", method="InspectSession", code="CANCELLED") == 1)
        assert not house.world.engine._entries
        house.gate.set()
        await until(lambda: house.world.is_idle)
        await feed(house, 1)


async def test_a_session_is_read_only_by_whom_its_scope_allows(tmp_path: Path) -> None:
    """To score is enough for a text of one's own. What names a session needs the scope of sessions too."""
    secrets = {name: name * 16 for name in ("text", "both", "life")}
    scopes = {"text": '"score"', "both": '"score", "sessions"', "life": '"sessions"'}
    path = tmp_path / "principals.toml"
    path.write_text(
        "\n".join(
            f'[[principal]]\nname = "{name}"\ntokens = ["{digest(secret)}"]\nscopes = [{scopes[name]}]'
            for name, secret in secrets.items()
        )
    )
    files = WatchedFiles("principals", [path], lambda: read_principals(path), lambda name, is_good: None)
    async with open_desk(doorkeeper=Doorkeeper("", files, "toy")) as desk:

        def ask(name: str, session_id: str) -> Any:
            metadata = (("authorization", f"Bearer {secrets[name]}"),)
            request = Request(session_id=session_id, input=tokens(1), tensors=["h"])
            return desk.life.InspectSession(request, metadata=metadata)

        for name, session_id in (("text", "s"), ("life", ""), ("life", "s")):
            code, _, _ = await refusal(ask(name, session_id))
            assert code is Code.PERMISSION_DENIED
        assert desk.inspection.seen == []
        for name, session_id in (("text", ""), ("both", ""), ("both", "s")):
            await drain(ask(name, session_id))
        wanted = InspectionRequest((1,), Point(), ("h",))
        assert desk.inspection.seen == [
            (Caller("text", ""), wanted),
            (Caller("both", ""), wanted),
            (Caller("both", "s"), wanted),
        ]
