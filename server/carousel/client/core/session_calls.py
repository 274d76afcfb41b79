"""The calls that create, move, describe and end sessions, as values; the other half of `calls`.

Calls that change something carry a request id, so that they are safe to make twice.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from google.protobuf import duration_pb2

from carousel.client.core import answers
from carousel.client.core.calls import Call, identify, make_input
from carousel.client.core.options import Prompt
from carousel.client.core.results import History, Inspected, SessionEvent, SessionInfo
from carousel.client.core.stubs import SESSIONS
from carousel.v1 import sessions_pb2

_PAGE_SIZE = 500


def create_session(session_id: str, model: str, options: dict[str, Any]) -> Call[SessionInfo]:
    """`options` here and below: a `request_id`, if the caller has one."""
    request = sessions_pb2.CreateSessionRequest(session_id=session_id, model=model, **identify(options))
    return Call(SESSIONS, "CreateSession", request, answers.session, session_id)


def get_session(session_id: str) -> Call[SessionInfo]:
    request = sessions_pb2.GetSessionRequest(session_id=session_id)
    return Call(SESSIONS, "GetSession", request, answers.session, session_id)


def list_sessions(page_token: str) -> Call[tuple[list[SessionInfo], str]]:
    """Asks for one page; the answer has the token of the next one, empty on the last."""
    request = sessions_pb2.ListSessionsRequest(page_size=_PAGE_SIZE, page_token=page_token)
    return Call(SESSIONS, "ListSessions", request, answers.session_page)


def delete_session(session_id: str, options: dict[str, Any]) -> Call[None]:
    request = sessions_pb2.DeleteSessionRequest(session_id=session_id, **identify(options))
    return Call(SESSIONS, "DeleteSession", request, lambda answer: None, session_id)


def fork_session(
    session_id: str,
    position: int | None,
    checkpoint: str,
    count: int | None,
    new_ids: Sequence[str],
    options: dict[str, Any],
) -> Call[list[SessionInfo]]:
    request = sessions_pb2.ForkSessionRequest(
        session_id=session_id,
        point=_point(position, checkpoint),
        count=count,
        new_session_ids=new_ids,
        **identify(options),
    )
    parse = lambda answer: [answers.session(one) for one in answer.sessions]  # noqa: E731
    return Call(SESSIONS, "ForkSession", request, parse, session_id)


def rewind_session(
    session_id: str,
    position: int | None,
    checkpoint: str,
    expected_position: int | None,
    options: dict[str, Any],
) -> Call[SessionInfo]:
    request = sessions_pb2.RewindSessionRequest(
        session_id=session_id,
        point=_point(position, checkpoint),
        expected_position=expected_position,
        **identify(options),
    )
    return Call(SESSIONS, "RewindSession", request, answers.session, session_id)


def save_checkpoint(session_id: str, name: str, options: dict[str, Any]) -> Call[SessionInfo]:
    request = sessions_pb2.SaveCheckpointRequest(session_id=session_id, checkpoint=name, **identify(options))
    return Call(SESSIONS, "SaveCheckpoint", request, answers.session, session_id)


def get_history(session_id: str) -> Call[History]:
    request = sessions_pb2.GetHistoryRequest(session_id=session_id)
    return Call(SESSIONS, "GetHistory", request, answers.history, session_id)


def export_session(session_id: str, ttl: timedelta | None, position: int | None, checkpoint: str) -> Call[bytes]:
    request = sessions_pb2.ExportSessionRequest(session_id=session_id, point=_point(position, checkpoint))
    if ttl is not None:
        duration = duration_pb2.Duration()
        duration.FromTimedelta(ttl)
        request.ttl.CopyFrom(duration)
    return Call(SESSIONS, "ExportSession", request, lambda answer: bytes(answer.state), session_id)


def import_session(state: bytes, session_id: str, options: dict[str, Any]) -> Call[SessionInfo]:
    request = sessions_pb2.ImportSessionRequest(state=state, session_id=session_id, **identify(options))
    return Call(SESSIONS, "ImportSession", request, answers.session, session_id)


def inspect_session(
    prompt: Prompt,
    session_id: str,
    model: str,
    position: int | None,
    checkpoint: str,
    tensors: Sequence[str],
    num_candidates: int | None,
) -> Call[Inspected]:
    request = sessions_pb2.InspectSessionRequest(
        session_id=session_id,
        model=model,
        input=make_input(prompt),
        tensors=tensors,
        num_candidates=num_candidates,
    )
    if position is not None or checkpoint:
        request.point.CopyFrom(_point(position, checkpoint))
    return Call(SESSIONS, "InspectSession", request, answers.Inspections(), session_id)


def watch_sessions() -> Call[SessionEvent]:
    return Call(SESSIONS, "WatchSessions", sessions_pb2.WatchSessionsRequest(), answers.event)


def _point(position: int | None, checkpoint: str) -> sessions_pb2.Point:
    """Neither argument means now."""
    if position is not None and checkpoint:
        raise ValueError("either a position or a checkpoint, not both")
    return sessions_pb2.Point(checkpoint=checkpoint) if checkpoint else sessions_pb2.Point(position=position)
