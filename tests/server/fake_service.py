"""A tiny honest server of the wire contract, for clients to talk to. It speaks bytes: a token is a byte of UTF-8.

Generation counts on from the last byte fed, in branch b from b bytes further on; a session's position counts the bytes
that it was given. The texts in `FAILURES` fail as the real server would say it; `HANG` is answered once and then never
again, `WAIT` never. A turn on a session is applied when its answer is complete, and remembered by its request id.
"""

import collections
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import empty_pb2, timestamp_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from carousel.errors import (
    CarouselError,
    InvalidRequest,
    Overloaded,
    PositionMismatch,
    PositionUnknown,
    SessionDeleted,
    SessionMoved,
    SessionNotFound,
    ShuttingDown,
)
from carousel.rpc.errors import to_status
from carousel.v1 import language_model_pb2 as lm
from carousel.v1 import language_model_pb2_grpc, sessions_pb2, sessions_pb2_grpc, types_pb2

HANG = "hang"
WAIT = "wait"
FAILURES: dict[str, CarouselError] = {
    "overload": Overloaded("too many turns", limit="max_queued_turns", retry_seconds=0.25),
    "bad": InvalidRequest("sampling.top_p", "must be above 0 up to 1, not 7"),
}
BROKEN = None
OVERLOADED = FAILURES["overload"]
MOVED = SessionMoved("somebody was faster")
STOPPING = ShuttingDown("the server is shutting down")
MODEL = lm.Model(
    name="counter",
    digest="d" * 64,
    cell="lstm",
    num_parameters=12_345,
    tokenizer="byte",
    limits=lm.Limits(max_input_tokens=16, max_message_bytes=1 << 20, max_generated_tokens=64),
    training_json='{"corpus": "numbers"}',
)


@dataclass(frozen=True)
class Mishap:
    """What befalls a call: `error` after so many messages, `BROKEN` being a broken connection."""

    after: int = 0
    error: CarouselError | None = BROKEN
    is_applied: bool = False  # the answer was complete and its turn saved; the client alone does not get it


class FakeService(language_model_pb2_grpc.LanguageModelServicer, sessions_pb2_grpc.SessionsServicer):
    """`requests` and `metadata` are what came in; `is_cancelled` is set when a call ends that hung.

    `mishaps` befall the next calls one by one; None is a call that goes well.
    """

    def __init__(self) -> None:
        self.positions: dict[str, int] = {}
        self.deleted: set[str] = set()
        self.boundaries: dict[str, list[int]] = {}
        self.checkpoints: dict[str, dict[str, int]] = {}
        self.records: dict[tuple[str, str], list[Any]] = {}
        self._orders: dict[str, threading.Lock] = collections.defaultdict(threading.Lock)  # generations of a session
        self.mishaps: list[Mishap | None] = []
        self.requests: list[Any] = []
        self.metadata: list[dict[str, str]] = []
        self.is_cancelled = threading.Event()
        self.is_waiting = threading.Event()
        self.num_overloads = 0  # answers of that kind to give before Score works

    def Generate(self, request: Any, context: Any) -> Iterator[Any]:
        self._receive(request, request.session_id, context)
        self._fail_or_hang_on(request.input.text, context)
        with self._orders[request.session_id] if request.session_id else contextlib.nullcontext():
            yield from self._generate(request, context)

    def _generate(self, request: Any, context: Any) -> Iterator[Any]:
        fed = _given(request.input)
        last, num_tokens = fed[-1] if fed else 0, request.max_tokens if request.HasField("max_tokens") else 3
        branches = range(max(1, request.n))
        answers = [
            lm.GenerateResponse(tokens=[lm.GeneratedToken(id=byte)], text=chr(byte), branch=branch)
            for index in range(num_tokens)
            for branch in branches
            for byte in [last + 1 + index + branch]
        ]
        position = self.positions.get(request.session_id, 0) + len(fed) + num_tokens
        for branch in reversed(branches):
            finished = lm.Finished(
                reason=lm.Finished.REASON_LENGTH,
                position=position,
                num_input_tokens=len(fed),
                num_generated_tokens=num_tokens,
                seed=request.sampling.seed + branch,
                state=request.state and request.state + bytes(fed),
            )
            answers.append(lm.GenerateResponse(finished=finished, branch=branch))
        for answer in self._answer(request, request.session_id, answers, position, context):
            yield answer
            if request.input.text == HANG:
                self.is_cancelled.wait()

    def Predict(self, request_iterator: Any, context: Any) -> Iterator[Any]:
        unkept, session_id = 0, None
        for request in request_iterator:
            session_id = request.session_id if session_id is None else session_id
            self._receive(request, session_id, context)
            self._fail_or_hang_on(request.input.text, context)
            unkept += len(_given(request.input))
            position = self.positions[session_id] + len(_given(request.input)) if session_id else unkept
            candidates = [types_pb2.Candidate(id=index, log_probability=-index) for index in range(request.k)]
            prefix = request.word_prefix
            words = [lm.Word(text=prefix + end, log_probability=-1) for end in ("a", "b")]
            wanted = words if request.HasField("word_prefix") else []
            answer = lm.PredictResponse(
                candidates=candidates, words=wanted, position=position, state=request.state and request.state + b"+"
            )
            yield from self._answer(request, session_id, [answer], position, context)
            if request.input.text == "end":
                return

    def Score(self, request: Any, context: Any) -> Iterator[Any]:
        if self.num_overloads:
            self.num_overloads -= 1
            _abort(FAILURES["overload"], context)
        self._receive(request, request.session_id, context)
        self._fail_or_hang_on(request.input.text.strip(), context)
        fed = _given(request.input)
        answers = []
        for byte in fed:
            token = lm.ScoredToken(id=byte, log_probability=-0.5, rank=byte, is_hit=byte <= request.g, text=chr(byte))
            answers.append(lm.ScoreResponse(tokens=[token]))
        num_hits = sum(byte <= request.g for byte in fed)
        position = self.positions.get(request.session_id, 0) + len(fed)
        totals = lm.ScoreTotals(
            num_tokens=len(fed), log_probability=-0.5 * len(fed), num_hits=num_hits, position=position
        )
        answers.append(lm.ScoreResponse(totals=totals))
        yield from self._answer(request, request.session_id, answers, position, context)

    def Tokenize(self, request: Any, context: Any) -> Any:
        tokens = [lm.Token(id=byte, text=chr(byte)) for byte in request.text.encode()]
        return lm.TokenizeResponse(tokens=tokens)

    def Detokenize(self, request: Any, context: Any) -> Any:
        return lm.DetokenizeResponse(text=bytes(request.ids).decode())

    def ListModels(self, request: Any, context: Any) -> Any:
        self.metadata.append(dict(context.invocation_metadata()))
        return lm.ListModelsResponse(models=[MODEL])

    def GetModel(self, request: Any, context: Any) -> Any:
        return MODEL

    def CreateSession(self, request: Any, context: Any) -> Any:
        self._befall(context)
        return self._create(request.session_id, 0)

    def GetSession(self, request: Any, context: Any) -> Any:
        self._befall(context)
        self._check(request.session_id, context)
        return self._session(request.session_id)

    def ListSessions(self, request: Any, context: Any) -> Any:
        """Two on a page, whatever size is asked for."""
        start = int(request.page_token or 0)
        ids = list(self.positions)
        token = str(start + 2) if start + 2 < len(ids) else ""
        page = [self._session(one) for one in ids[start : start + 2]]
        return sessions_pb2.ListSessionsResponse(sessions=page, next_page_token=token)

    def DeleteSession(self, request: Any, context: Any) -> Any:
        mishap = self.mishaps.pop(0) if self.mishaps else None
        if mishap is None or mishap.is_applied:
            self._check(request.session_id, context)
            del self.positions[request.session_id]
            self.deleted.add(request.session_id)
        if mishap is not None:
            _break(mishap, context)
        return empty_pb2.Empty()

    def ForkSession(self, request: Any, context: Any) -> Any:
        self._receive(request, request.session_id, context)
        self._befall(context)
        position = self._find(request.session_id, request.point, context)
        ids = list(request.new_session_ids) or [""] * (request.count or 1)
        return sessions_pb2.ForkSessionResponse(sessions=[self._create(one, position) for one in ids])

    def RewindSession(self, request: Any, context: Any) -> Any:
        self._receive(request, request.session_id, context)
        self._befall(context)
        self.positions[request.session_id] = self._find(request.session_id, request.point, context)
        return self._session(request.session_id)

    def SaveCheckpoint(self, request: Any, context: Any) -> Any:
        self._receive(request, request.session_id, context)
        self.checkpoints[request.session_id][request.checkpoint] = self.positions[request.session_id]
        return self._session(request.session_id)

    def GetHistory(self, request: Any, context: Any) -> Any:
        self._receive(request, request.session_id, context)
        session_id = request.session_id
        return sessions_pb2.History(
            session=self._session(session_id),
            positions=self.boundaries[session_id],
            checkpoints=self.checkpoints[session_id],
        )

    def ExportSession(self, request: Any, context: Any) -> Any:
        """The state is its position, sealed with nothing."""
        self._receive(request, request.session_id, context)
        position = self._find(request.session_id, request.point, context)
        return sessions_pb2.ExportSessionResponse(state=b"at %d" % position, position=position)

    def ImportSession(self, request: Any, context: Any) -> Any:
        return self._create(request.session_id, int(request.state.removeprefix(b"at ")))

    def WatchSessions(self, request: Any, context: Any) -> Iterator[Any]:
        """Tells what has happened so far, and ends."""
        for kind, ids in ((sessions_pb2.SessionEvent.KIND_CREATED, [*self.positions]), (99, ["later"])):
            for session_id in ids:
                time = timestamp_pb2.Timestamp(seconds=1_700_000_000)
                yield sessions_pb2.SessionEvent(kind=kind, session_id=session_id, time=time)

    def _receive(self, request: Any, session_id: str, context: Any) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if session_id:
            self._check(session_id, context)

    def _answer(self, request: Any, session_id: str, answers: list[Any], position: int, context: Any) -> Iterator[Any]:
        """A turn on a session happens once: by its id, and where it is expected."""
        mishap = self.mishaps.pop(0) if self.mishaps else None
        key = (session_id, request.request_id)
        if request.request_id and key in self.records:
            answers = self.records[key]
        else:
            self._check_position(request, session_id, context)
        is_new = answers is not self.records.get(key)
        if mishap is not None:
            if mishap.is_applied and is_new:
                self._apply(key, answers, position)
            yield from answers[: mishap.after]
            _break(mishap, context)
        yield from answers[:-1]
        if is_new:
            self._apply(key, answers, position)
        yield answers[-1]

    def _check_position(self, request: Any, session_id: str, context: Any) -> None:
        expected = request.expected_position if request.HasField("expected_position") else None
        if session_id and expected is not None and expected != self.positions[session_id]:
            _abort(PositionMismatch(expected, self.positions[session_id]), context)

    def _apply(self, key: tuple[str, str], answers: list[Any], position: int) -> None:
        if key[0]:
            self.positions[key[0]] = position
            self.boundaries[key[0]].append(position)
        if key[1]:
            self.records[key] = answers

    def _befall(self, context: Any) -> None:
        mishap = self.mishaps.pop(0) if self.mishaps else None
        if mishap is not None:
            _break(mishap, context)

    def _create(self, session_id: str, position: int) -> Any:
        session_id = session_id or f"made-{len(self.positions)}"
        self.positions[session_id] = position
        self.boundaries[session_id] = [position]
        self.checkpoints[session_id] = {}
        return self._session(session_id)

    def _find(self, session_id: str, point: Any, context: Any) -> int:
        if point.WhichOneof("point") == "position":
            if point.position not in self.boundaries[session_id]:
                _abort(PositionUnknown(f"position {point.position} is not retained"), context)
            return int(point.position)
        return self.checkpoints[session_id][point.checkpoint] if point.checkpoint else self.positions[session_id]

    def _fail_or_hang_on(self, text: str, context: Any) -> None:
        if text in FAILURES:
            _abort(FAILURES[text], context)
        if text == HANG:
            context.add_callback(self.is_cancelled.set)
        if text == WAIT:
            self.is_waiting.set()
            self.is_cancelled.wait()

    def _check(self, session_id: str, context: Any) -> None:
        if session_id in self.deleted:
            text = f"session {session_id} has ended: deleted"
            _abort(SessionDeleted(text, ending="deleted", ended_at="1700000000.250"), context)
        if session_id not in self.positions:
            _abort(SessionNotFound(f"there is no session {session_id}"), context)

    def _session(self, session_id: str) -> Any:
        return sessions_pb2.Session(
            session_id=session_id,
            model=MODEL.name,
            position=self.positions[session_id],
            create_time=timestamp_pb2.Timestamp(seconds=1_700_000_000),
        )


def _given(given: Any) -> list[int]:
    return list(given.text.encode() or given.tokens.ids)


def _break(mishap: Mishap, context: Any) -> None:
    if mishap.error is BROKEN:
        context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
    _abort(mishap.error, context)


def _abort(error: CarouselError, context: Any) -> None:
    context.abort_with_status(rpc_status.to_status(to_status(error)))


@contextlib.contextmanager
def serve_fake() -> Iterator[tuple[str, FakeService, health.HealthServicer]]:
    """Address, the service, and its health for the test to set."""
    service, well = FakeService(), health.HealthServicer()
    well.set("", health_pb2.HealthCheckResponse.SERVING)
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool)
        language_model_pb2_grpc.add_LanguageModelServicer_to_server(service, server)
        sessions_pb2_grpc.add_SessionsServicer_to_server(service, server)
        health_pb2_grpc.add_HealthServicer_to_server(well, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}", service, well
        finally:
            service.is_cancelled.set()
            server.stop(None).wait()
