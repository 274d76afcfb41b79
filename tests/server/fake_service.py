"""A tiny honest server of the wire contract, for clients to talk to. It speaks bytes: a token is a byte of UTF-8.

Generation counts on from the last byte fed; a session's position counts the bytes that it was given. The texts in
`FAILURES` fail as the real server would say it; `HANG` is answered once and then never again, `WAIT` never.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf import empty_pb2, timestamp_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from carousel.errors import CarouselError, InvalidRequest, Overloaded, SessionNotFound
from carousel.rpc.errors import to_status
from carousel.v1 import language_model_pb2 as lm
from carousel.v1 import language_model_pb2_grpc, sessions_pb2, sessions_pb2_grpc, types_pb2

HANG = "hang"
WAIT = "wait"
FAILURES: dict[str, CarouselError] = {
    "overload": Overloaded("too many turns", limit="max_queued_turns", retry_seconds=0.25),
    "bad": InvalidRequest("sampling.top_p", "must be above 0 up to 1, not 7"),
}
MODEL = lm.Model(
    name="counter",
    digest="d" * 64,
    cell="lstm",
    num_parameters=12_345,
    tokenizer="byte",
    limits=lm.Limits(max_input_tokens=16, max_message_bytes=1 << 20, max_generated_tokens=64),
    training_json='{"corpus": "numbers"}',
)


class FakeService(language_model_pb2_grpc.LanguageModelServicer, sessions_pb2_grpc.SessionsServicer):
    """`requests` and `metadata` are what came in; `is_cancelled` is set when a call ends that hung."""

    def __init__(self) -> None:
        self.positions: dict[str, int] = {}
        self.requests: list[Any] = []
        self.metadata: list[dict[str, str]] = []
        self.is_cancelled = threading.Event()
        self.is_waiting = threading.Event()
        self.num_overloads = 0  # answers of that kind to give before Score works

    def Generate(self, request: Any, context: Any) -> Iterator[Any]:
        fed = self._feed(request.session_id, request.input, request, context)
        self._fail_or_hang_on(request.input.text, context)
        last = fed[-1] if fed else 0
        num_tokens = request.max_tokens if request.HasField("max_tokens") else 3
        for index in range(num_tokens):
            token = lm.GeneratedToken(id=last + 1 + index)
            yield lm.GenerateResponse(tokens=[token], text=chr(last + 1 + index))
            if request.input.text == HANG:
                self.is_cancelled.wait()
        self._advance(request.session_id, num_tokens)
        yield lm.GenerateResponse(
            finished=lm.Finished(
                reason=lm.Finished.REASON_LENGTH,
                position=self.positions.get(request.session_id, len(fed) + num_tokens),
                num_input_tokens=len(fed),
                num_generated_tokens=num_tokens,
                seed=request.sampling.seed,
            )
        )

    def Predict(self, request_iterator: Any, context: Any) -> Iterator[Any]:
        position = 0
        for request in request_iterator:
            position += len(self._feed(request.session_id, request.input, request, context))
            self._fail_or_hang_on(request.input.text, context)
            candidates = [types_pb2.Candidate(id=index, log_probability=-index) for index in range(request.k)]
            prefix = request.word_prefix
            words = [lm.Word(text=prefix + end, log_probability=-1) for end in ("a", "b")]
            wanted = words if request.HasField("word_prefix") else []
            yield lm.PredictResponse(candidates=candidates, words=wanted, position=position)
            if request.input.text == "end":
                return

    def Score(self, request: Any, context: Any) -> Iterator[Any]:
        if self.num_overloads:
            self.num_overloads -= 1
            _abort(FAILURES["overload"], context)
        fed = self._feed(request.session_id, request.input, request, context)
        self._fail_or_hang_on(request.input.text.strip(), context)
        for byte in fed:
            hit = byte <= request.g
            token = lm.ScoredToken(id=byte, log_probability=-0.5, rank=byte, is_hit=hit, text=chr(byte))
            yield lm.ScoreResponse(tokens=[token])
        num_hits = sum(byte <= request.g for byte in fed)
        totals = lm.ScoreTotals(num_tokens=len(fed), log_probability=-0.5 * len(fed), num_hits=num_hits)
        yield lm.ScoreResponse(totals=totals)

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
        session_id = request.session_id or f"made-{len(self.positions)}"
        self.positions[session_id] = 0
        return self._session(session_id)

    def GetSession(self, request: Any, context: Any) -> Any:
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
        self._check(request.session_id, context)
        del self.positions[request.session_id]
        return empty_pb2.Empty()

    def _feed(self, session_id: str, given: Any, request: Any, context: Any) -> list[int]:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if session_id:
            self._check(session_id, context)
        fed = list(given.text.encode() or given.tokens.ids)
        self._advance(session_id, len(fed))
        return fed

    def _advance(self, session_id: str, num_tokens: int) -> None:
        if session_id:
            self.positions[session_id] += num_tokens

    def _fail_or_hang_on(self, text: str, context: Any) -> None:
        if text in FAILURES:
            _abort(FAILURES[text], context)
        if text == HANG:
            context.add_callback(self.is_cancelled.set)
        if text == WAIT:
            self.is_waiting.set()
            self.is_cancelled.wait()

    def _check(self, session_id: str, context: Any) -> None:
        if session_id not in self.positions:
            _abort(SessionNotFound(f"there is no session {session_id}"), context)

    def _session(self, session_id: str) -> Any:
        return sessions_pb2.Session(
            session_id=session_id,
            model=MODEL.name,
            position=self.positions[session_id],
            create_time=timestamp_pb2.Timestamp(seconds=1_700_000_000),
        )


def _abort(error: CarouselError, context: Any) -> None:
    context.abort_with_status(rpc_status.to_status(to_status(error)))


@contextmanager
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
