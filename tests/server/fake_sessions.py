"""The sessions of the fake server: where each stands, what it has applied, and which requests have made or ended some.

As in the real server, a change happens once: a repeated turn, rewind or checkpoint gets its recorded answer, or
ANSWER_GONE when only its id is remembered; a repeated create, fork or import gets the sessions as they stand.
"""

import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import empty_pb2, timestamp_pb2
from grpc_status import rpc_status

from carousel.errors import (
    AnswerGone,
    CarouselError,
    InvalidRequest,
    PositionMismatch,
    PositionUnknown,
    SessionDeleted,
    SessionExists,
    SessionNotFound,
)
from carousel.rpc.errors import to_status
from carousel.v1 import sessions_pb2, sessions_pb2_grpc

BROKEN = grpc.StatusCode.UNAVAILABLE  # a bare code does not come from this server


@dataclass(frozen=True)
class Mishap:
    """What happens to a call: `error` after so many messages. A bare code looks like a broken connection."""

    after: int = 0
    error: CarouselError | grpc.StatusCode = BROKEN
    is_applied: bool = False  # the request is done, and only its answer is lost


class Kept:
    """One session. `applied` are the requests that it remembers, `answers` those whose answers it still has."""

    def __init__(self, position: int) -> None:
        self.origin: Any = None
        self.position = position
        self.boundaries = [position]
        self.checkpoints: dict[str, int] = {}
        self.applied: dict[str, bytes] = {}
        self.answers: dict[str, list[Any]] = {}
        self.order = threading.Lock()

    def move(self, position: int) -> None:
        self.position = position
        self.boundaries.append(position)


class FakeSessions(sessions_pb2_grpc.SessionsServicer):
    """`changes` are the requests of the six calls that make, move and end sessions, as they came in.

    `mishaps` happen to the next calls one by one; None is a call that goes well.
    """

    def __init__(self) -> None:
        self.kept: dict[str, Kept] = {}
        self.deleted: set[str] = set()
        self.deeds: dict[str, tuple[bytes, list[str]]] = {}  # by request id: what was asked, and the sessions concerned
        self.retained_answers = 4
        self.mishaps: list[Mishap | None] = []
        self.requests: list[Any] = []
        self.changes: list[Any] = []
        self.metadata: list[dict[str, str]] = []
        self._num_made = 0

    @property
    def positions(self) -> dict[str, int]:
        return {session_id: session.position for session_id, session in self.kept.items()}

    def forget_answers(self, *, with_ids: bool = False) -> None:
        for session in self.kept.values():
            session.answers.clear()
            if with_ids:
                session.applied.clear()

    def CreateSession(self, request: Any, context: Any) -> Any:
        return self._make(request, [request.session_id], 0, context)[0]

    def ImportSession(self, request: Any, context: Any) -> Any:
        return self._make(request, [request.session_id], int(request.state.removeprefix(b"at ")), context)[0]

    def ForkSession(self, request: Any, context: Any) -> Any:
        self._receive(request, request.session_id, context)
        position = self._find(request.session_id, request.point, context)
        ids = list(request.new_session_ids) or [""] * (request.count or 1)
        made = self._make(request, ids, position, context)
        for one in made:
            self.kept[one.session_id].origin = sessions_pb2.Origin(session_id=request.session_id, position=position)
        return sessions_pb2.ForkSessionResponse(sessions=made)

    def DeleteSession(self, request: Any, context: Any) -> Any:
        def end() -> list[str]:
            self._check(request.session_id, context)
            del self.kept[request.session_id]
            self.deleted.add(request.session_id)
            return [request.session_id]

        self._do_once(request, end, context)
        return empty_pb2.Empty()

    def RewindSession(self, request: Any, context: Any) -> Any:
        def rewind(session: Kept) -> None:
            self._check_position(request, session, context)
            session.position = self._find(request.session_id, request.point, context)
            session.boundaries = [one for one in session.boundaries if one <= session.position]

        return self._move(request, rewind, context)

    def SaveCheckpoint(self, request: Any, context: Any) -> Any:
        def save(session: Kept) -> None:
            session.checkpoints[request.checkpoint] = session.position

        return self._move(request, save, context)

    def GetSession(self, request: Any, context: Any) -> Any:
        self._befall(context)
        self._check(request.session_id, context)
        return self._session(request.session_id)

    def ListSessions(self, request: Any, context: Any) -> Any:
        """Puts two on a page, whatever size is asked for."""
        start = int(request.page_token or 0)
        ids = list(self.kept)
        token = str(start + 2) if start + 2 < len(ids) else ""
        page = [self._session(one) for one in ids[start : start + 2]]
        return sessions_pb2.ListSessionsResponse(sessions=page, next_page_token=token)

    def GetHistory(self, request: Any, context: Any) -> Any:
        session = self._receive(request, request.session_id, context)
        return sessions_pb2.History(
            session=self._session(request.session_id),
            positions=session.boundaries,
            checkpoints=session.checkpoints,
            origin=session.origin,
        )

    def ExportSession(self, request: Any, context: Any) -> Any:
        """Answers with a state that is the position, without a seal."""
        self._receive(request, request.session_id, context)
        position = self._find(request.session_id, request.point, context)
        return sessions_pb2.ExportSessionResponse(state=b"at %d" % position, position=position)

    def InspectSession(self, request: Any, context: Any) -> Iterable[Any]:
        """Shows states that are the position, for each byte of the text."""
        self._befall(context)
        self._receive(request, request.session_id, context)
        start = self._find(request.session_id, request.point, context) if request.session_id else 0
        tensors = [
            sessions_pb2.StateTensor(name="half", shape=[1, 2], dtype="float32"),
            sessions_pb2.StateTensor(name="count", dtype="int64"),
        ]
        text = request.input.text.encode()
        for position in range(start, start + len(text) + 1):
            is_first = position == start
            token = sessions_pb2.InspectedToken(id=text[position - start - 1], text="x", log_probability=-1, rank=2)
            token.candidates.add(id=7, log_probability=-0.5, text="y")
            yield sessions_pb2.InspectSessionResponse(
                tensors=tensors if is_first else [],
                position=position,
                values=[struct.pack("<2f", position / 2, -position), struct.pack("<q", position)],
                token=None if is_first else token,
            )

    def WatchSessions(self, request: Any, context: Any) -> Iterable[Any]:
        """Reports what has happened so far, and ends."""
        kinds: list[tuple[Any, list[str]]] = [(sessions_pb2.SessionEvent.KIND_CREATED, [*self.kept]), (99, ["later"])]
        for kind, ids in kinds:
            for session_id in ids:
                time = timestamp_pb2.Timestamp(seconds=1_700_000_000)
                yield sessions_pb2.SessionEvent(kind=kind, session_id=session_id, time=time)

    def recall(self, session: Kept, request: Any, context: Any) -> list[Any] | None:
        """Returns the recorded answer to a repeat, or None for a new request. The record comes before the position."""
        if not request.request_id or request.request_id not in session.applied:
            return None
        if session.applied[request.request_id] != request.SerializeToString(deterministic=True):
            abort(InvalidRequest("request_id", "was used for something else"), context)
        if request.request_id not in session.answers:
            abort(AnswerGone("the answer is no longer kept", position=str(session.position)), context)
        return session.answers[request.request_id]

    def record(self, session: Kept, request: Any, answers: list[Any]) -> None:
        if request.request_id:
            session.applied[request.request_id] = request.SerializeToString(deterministic=True)
            session.answers[request.request_id] = answers
            for oldest in list(session.answers)[: -self.retained_answers]:
                del session.answers[oldest]

    def _receive(self, request: Any, session_id: str, context: Any) -> Any:
        """Finds the session, if there must be one."""
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if session_id:
            self._check(session_id, context)
        return self.kept.get(session_id)

    def _check_position(self, request: Any, session: Kept | None, context: Any) -> None:
        if session and request.HasField("expected_position") and request.expected_position != session.position:
            abort(PositionMismatch(request.expected_position, session.position), context)

    def _make(self, request: Any, ids: list[str], position: int, context: Any) -> list[Any]:
        def make() -> list[str]:
            if taken := [one for one in ids if one in self.kept]:
                abort(SessionExists(f"there is a session {taken[0]} already"), context)
            return [self._add(one, position) for one in ids]

        made = self._do_once(request, make, context)
        for session_id in made:
            self._check(session_id, context)
        return [self._session(session_id) for session_id in made]

    def _add(self, session_id: str, position: int) -> str:
        self._num_made += 1
        session_id = session_id or f"made-{self._num_made}"
        self.kept[session_id] = Kept(position)
        return session_id

    def _do_once(self, request: Any, do: Callable[[], list[str]], context: Any) -> list[str]:
        """Makes or ends sessions, unless the request has done so before."""
        self.changes.append(request)
        mishap = self._take_mishap(context)
        asked = request.SerializeToString(deterministic=True)
        before = self.deeds.get(request.request_id)
        if before is not None and before[0] != asked:
            abort(InvalidRequest("request_id", "was used for something else"), context)
        concerned = do() if before is None else before[1]
        if request.request_id:
            self.deeds[request.request_id] = (asked, concerned)
        if mishap is not None:
            abort(mishap.error, context)
        return concerned

    def _move(self, request: Any, do: Callable[[Kept], None], context: Any) -> Any:
        """Changes a session, unless the request has done so before."""
        self.changes.append(request)
        session = self._receive(request, request.session_id, context)
        mishap = self._take_mishap(context)
        answers = self.recall(session, request, context)
        if answers is None:
            do(session)
            answers = [self._session(request.session_id)]
            self.record(session, request, answers)
        if mishap is not None:
            abort(mishap.error, context)
        return answers[0]

    def _take_mishap(self, context: Any) -> Mishap | None:
        """Returns the mishap for when the call is done; one for before that happens here."""
        mishap = self.mishaps.pop(0) if self.mishaps else None
        if mishap is not None and not mishap.is_applied:
            abort(mishap.error, context)
        return mishap

    def _befall(self, context: Any) -> None:
        mishap = self.mishaps.pop(0) if self.mishaps else None
        if mishap is not None:
            abort(mishap.error, context)

    def _find(self, session_id: str, point: Any, context: Any) -> int:
        session = self.kept[session_id]
        if point.WhichOneof("point") == "position":
            if point.position not in session.boundaries:
                abort(PositionUnknown(f"position {point.position} is not retained"), context)
            return int(point.position)
        return session.checkpoints[point.checkpoint] if point.checkpoint else session.position

    def _check(self, session_id: str, context: Any) -> None:
        if session_id in self.kept:
            return
        if session_id in self.deleted:
            text = f"session {session_id} has ended: deleted"
            abort(SessionDeleted(text, ending="deleted", ended_at="1700000000.250"), context)
        abort(SessionNotFound(f"there is no session {session_id}"), context)

    def _session(self, session_id: str) -> Any:
        return sessions_pb2.Session(
            session_id=session_id,
            model="counter",
            position=self.kept[session_id].position,
            create_time=timestamp_pb2.Timestamp(seconds=1_700_000_000),
        )


def abort(error: CarouselError | grpc.StatusCode, context: Any) -> None:
    """Aborts the call. A bare code comes without details."""
    if isinstance(error, grpc.StatusCode):
        context.abort(error, "Socket closed")
    else:
        context.abort_with_status(rpc_status.to_status(to_status(error)))
