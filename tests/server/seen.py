"""Notes what reaches a server before anything is answered."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc


@dataclass(frozen=True)
class Seen:
    """A call. `request` is None where the client sends a stream."""

    method: str
    request: Any
    metadata: dict[str, str]
    seconds_left: float | None
    peer: str  # one for each connection


class Record(grpc.ServerInterceptor):  # type: ignore[misc]
    def __init__(self, note: Callable[[Seen], None]) -> None:
        self._note = note

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)
        kind = (handler.request_streaming, handler.response_streaming)
        make, answer = {
            (False, False): (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
            (False, True): (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
            (True, True): (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
        }[kind]

        def note_and_answer(request: Any, context: Any) -> Any:
            given = None if handler.request_streaming else request
            metadata = dict(context.invocation_metadata())
            method, left = details.method.rpartition("/")[2], context.time_remaining()
            self._note(Seen(method, given, metadata, left, context.peer()))
            return answer(request, context)

        return make(note_and_answer, handler.request_deserializer, handler.response_serializer)
