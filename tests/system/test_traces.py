"""A server sends its spans to a collector over OTLP, and a collector that is gone keeps it from nothing."""

import signal
import socket
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from tests.server_process import ServerProcess, serve

from carousel.client import Client

pytestmark = pytest.mark.slow


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans' names, as a collector's receiver gets them."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.headers: list[Any] = []

    def Export(self, request: Any, context: Any) -> Any:
        self.headers.append(dict(context.invocation_metadata()))
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def names(self) -> list[str]:
        return [
            span.name
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    receiver = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield receiver, f"http://127.0.0.1:{port}"
    server.stop(None).wait()


def test_spans_reach_a_collector(bundle: Path, collector: tuple[Collector, str]) -> None:
    """Before the server has ended, without waiting for a full batch; with the headers that the environment names."""
    receiver, endpoint = collector
    variables = {"CAROUSEL_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_HEADERS": "x-key=k"}
    with serve(bundle, variables=variables) as server:
        with Client(server.grpc_address) as client, client.session() as session:
            list(session.generate("The ", max_tokens=3))
        stop(server)
    assert receiver.names.count("carousel.v1.LanguageModel/Generate") == 1
    assert receiver.names.count("carousel.v1.Sessions/CreateSession") == 1
    assert receiver.names.count("generate") == 1
    assert {headers["x-key"] for headers in receiver.headers} == {"k"}


def test_a_collector_that_is_gone_keeps_the_server_from_nothing(bundle: Path) -> None:
    """Calls are answered, and the server stops within moments."""
    with serve(bundle, variables={"CAROUSEL_OTLP_ENDPOINT": "http://127.0.0.1:1"}) as server:
        with Client(server.grpc_address) as client:
            assert list(client.generate("The ", max_tokens=3))
        started = time.monotonic()
        stop(server)
        assert time.monotonic() - started < 15


def test_a_collector_that_says_nothing_is_not_waited_for(bundle: Path) -> None:
    """It takes the connection, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with serve(bundle, variables={"CAROUSEL_OTLP_ENDPOINT": endpoint}) as server:
            with Client(server.grpc_address) as client:
                assert list(client.generate("The ", max_tokens=3))
            started = time.monotonic()
            stop(server)
            assert time.monotonic() - started < 6


def stop(server: ServerProcess) -> None:
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=60) == 0
