"""A tiny honest server of the wire contract, for clients to talk to. It speaks bytes: a token is a byte of UTF-8.

Generation counts on from the last byte fed, in branch b from b bytes further on; a session's position counts the bytes
that it was given. The texts in `FAILURES` fail as the real server would say it; `HANG` is answered once and then never
again, `WAIT` never. A turn on a session is applied when its answer is complete, and remembered by its request id.
"""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tests.server.fake_many import Carried, FakeMany
from tests.server.fake_sessions import BROKEN, FakeSessions, Kept, Mishap, abort
from tests.server.seen import Record, Seen

from carousel.errors import CarouselError, InvalidRequest, Overloaded, SessionMoved, ShuttingDown
from carousel.v1 import language_model_pb2 as lm
from carousel.v1 import language_model_pb2_grpc, sessions_pb2_grpc, types_pb2

__all__ = ["BROKEN", "FAILURES", "HANG", "MODEL", "MOVED", "OVERLOADED", "STOPPING", "WAIT", "FakeService", "Mishap"]

HANG = "hang"
WAIT = "wait"
FAILURES: dict[str, CarouselError] = {
    "overload": Overloaded("too many turns", limit="max_queued_turns", retry_seconds=0.25),
    "bad": InvalidRequest("sampling.top_p", "must be above 0 up to 1, not 7"),
}
OVERLOADED = FAILURES["overload"]
MOVED = SessionMoved("somebody was faster")
STOPPING = ShuttingDown("the server is shutting down")
MODEL = lm.Model(
    name="counter",
    digest="d" * 64,
    cell="lstm",
    num_parameters=12_345,
    tokenizer="byte",
    limits=lm.Limits(max_input_tokens=16, max_generated_tokens=64),
    training_json='{"corpus": "numbers"}',
)


class FakeService(language_model_pb2_grpc.LanguageModelServicer, FakeSessions):
    """`seen` has all calls, `requests` and `metadata` those of turns and of sessions' pasts.

    `is_cancelled` is set when a call that hung ends.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Seen] = []
        self.is_cancelled = threading.Event()
        self.is_waiting = threading.Event()
        self.may_answer = threading.Event()  # while it is cleared, GetModel waits and says so
        self.may_answer.set()
        self.is_holding = threading.Event()
        self.is_ended = threading.Event()  # a sequence of questions has ended in order
        self.knows_many = True  # whether there is PredictMany
        self.refusals: list[CarouselError] = []  # for the next such streams, whatever is on them
        self.knows_itself = True  # whether there is GetModel
        self.max_sequences = 1000  # of one such stream, as GetModel reports
        self.max_message_bytes = 0  # as GetModel reports; how much is read is the server's own matter
        self.shift = 0  # generation counts on from this offset, as from another state
        self.num_overloads = 0  # answers of that kind that come before Score works

    def Generate(self, request: Any, context: Any) -> Iterator[Any]:
        session = self._receive(request, request.session_id, context)
        self._fail_or_hang_on(request.input.text, context)
        with _turn_of(session):
            yield from self._generate(request, session, context)

    def _generate(self, request: Any, session: Kept | None, context: Any) -> Iterator[Any]:
        fed = _given(request.input)
        last, num_tokens = fed[-1] if fed else 0, request.max_tokens if request.HasField("max_tokens") else 3
        branches = range(max(1, request.n))
        answers = [
            lm.GenerateResponse(tokens=[lm.GeneratedToken(id=byte)], text=chr(byte), branch=branch)
            for index in range(num_tokens)
            for branch in branches
            for byte in [last + 1 + index + branch + self.shift]
        ]
        position = (session.position if session else 0) + len(fed) + num_tokens
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
        for answer in self._answer(request, session, answers, position, context):
            yield answer
            if request.input.text == HANG:
                self.is_cancelled.wait()

    def Predict(self, request_iterator: Any, context: Any) -> Iterator[Any]:
        yield from self._predict_on(request_iterator, context, Carried())

    def _predict_on(self, request_iterator: Any, context: Any, carried: Carried) -> Iterator[Any]:
        session_id = None
        for request in request_iterator:
            session_id = request.session_id if session_id is None else session_id
            session = self._receive(request, session_id, context)
            self._fail_or_hang_on(request.input.text, context)
            with _turn_of(session):
                position = (session or carried).position + len(_given(request.input))
                yield from self._answer(request, session, [_predict(request, position)], position, context)
            carried.position = position
            if request.input.text == "end":
                return
        self.is_ended.set()

    def PredictMany(self, request_iterator: Any, context: Any) -> Iterator[Any]:
        if not self.knows_many:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        if self.refusals:
            abort(self.refusals.pop(0), context)
        yield from FakeMany(self._predict_on, self.max_sequences, context).run(request_iterator)

    def Score(self, request: Any, context: Any) -> Iterator[Any]:
        if self.num_overloads:
            self.num_overloads -= 1
            abort(FAILURES["overload"], context)
        session = self._receive(request, request.session_id, context)
        self._fail_or_hang_on(request.input.text.strip(), context)
        fed = _given(request.input)
        answers = []
        for byte in fed:
            token = lm.ScoredToken(id=byte, log_probability=-0.5, rank=byte, is_hit=byte <= request.g, text=chr(byte))
            answers.append(lm.ScoreResponse(tokens=[token]))
        num_hits = sum(byte <= request.g for byte in fed)
        with _turn_of(session):
            position = (session.position if session else 0) + len(fed)
            totals = lm.ScoreTotals(
                num_tokens=len(fed), log_probability=-0.5 * len(fed), num_hits=num_hits, position=position
            )
            answers.append(lm.ScoreResponse(totals=totals))
            yield from self._answer(request, session, answers, position, context)

    def Tokenize(self, request: Any, context: Any) -> Any:
        tokens = [lm.Token(id=byte, text=chr(byte)) for byte in request.text.encode()]
        return lm.TokenizeResponse(tokens=tokens)

    def Detokenize(self, request: Any, context: Any) -> Any:
        return lm.DetokenizeResponse(text=bytes(request.ids).decode())

    def ListModels(self, request: Any, context: Any) -> Any:
        self.metadata.append(dict(context.invocation_metadata()))
        return lm.ListModelsResponse(models=[self._describe()])

    def GetModel(self, request: Any, context: Any) -> Any:
        self.is_holding.set()
        self.may_answer.wait()
        if not self.knows_itself:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        return self._describe()

    def _describe(self) -> Any:
        model = lm.Model()
        model.CopyFrom(MODEL)
        model.limits.max_message_bytes = self.max_message_bytes
        model.limits.max_sequences_per_stream = self.max_sequences
        return model

    def _answer(
        self, request: Any, session: Kept | None, answers: list[Any], position: int, context: Any
    ) -> Iterator[Any]:
        """Applies a turn on a session once: by its id, and at its expected position."""
        recorded = self.recall(session, request, context) if session else None
        if recorded is None:
            self._check_position(request, session, context)
        mishap = self.mishaps.pop(0) if self.mishaps else None
        answers = recorded or answers
        apply = session is not None and recorded is None
        if mishap is not None:
            if session and apply and mishap.is_applied:
                self._apply(session, request, answers, position)
            yield from answers[: mishap.after]
            abort(mishap.error, context)
        yield from answers[:-1]
        if session and apply:
            self._apply(session, request, answers, position)
        yield answers[-1]

    def _apply(self, session: Kept, request: Any, answers: list[Any], position: int) -> None:
        session.move(position)
        self.record(session, request, answers)

    def _fail_or_hang_on(self, text: str, context: Any) -> None:
        if text in FAILURES:
            abort(FAILURES[text], context)
        if text == HANG:
            context.add_callback(self.is_cancelled.set)
        if text == WAIT:
            self.is_waiting.set()
            self.is_cancelled.wait()


def _turn_of(session: Kept | None) -> contextlib.AbstractContextManager[Any]:
    """Lets one turn of a session in at a time."""
    return session.order if session else contextlib.nullcontext()


def _predict(request: Any, position: int) -> Any:
    candidates = [types_pb2.Candidate(id=index, log_probability=-index) for index in range(request.k)]
    words = [lm.Word(text=request.word_prefix + end, log_probability=-1) for end in ("a", "b")]
    wanted = words if request.HasField("word_prefix") else []
    state = request.state and request.state + b"+"
    return lm.PredictResponse(candidates=candidates, words=wanted, position=position, state=state)


def _given(given: Any) -> list[int]:
    return list(given.text.encode() or given.tokens.ids)


@contextlib.contextmanager
def serve_fake(
    max_message_bytes: int = 1 << 20, credentials: grpc.ServerCredentials | None = None
) -> Iterator[tuple[str, FakeService, health.HealthServicer]]:
    """Yields the address, the service, and its health for the test to set. Larger messages are not read."""
    service, well = FakeService(), health.HealthServicer()
    well.set("", health_pb2.HealthCheckResponse.SERVING)
    with ThreadPoolExecutor(32) as pool:
        options = [("grpc.max_receive_message_length", max_message_bytes)]
        server = grpc.server(pool, interceptors=[Record(service.seen.append)], options=options)
        service.max_message_bytes = max_message_bytes
        language_model_pb2_grpc.add_LanguageModelServicer_to_server(service, server)
        sessions_pb2_grpc.add_SessionsServicer_to_server(service, server)
        health_pb2_grpc.add_HealthServicer_to_server(well, server)
        listen = "127.0.0.1:0"
        port = server.add_secure_port(listen, credentials) if credentials else server.add_insecure_port(listen)
        server.start()
        try:
            yield f"127.0.0.1:{port}", service, well
        finally:
            service.is_cancelled.set()
            service.may_answer.set()
            server.stop(None).wait()
