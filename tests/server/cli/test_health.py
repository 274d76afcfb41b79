"""`carousel health`, as a container runtime uses it."""

import http.server
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2
from tests.certificates import Authority
from tests.server.cli.conftest import Fake, Run


@contextmanager
def serve_readiness(status: int, context: ssl.SSLContext | None) -> Iterator[str]:
    """An HTTP server that answers with one status; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *parts: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *parts: None  # type: ignore[method-assign]  # plain text where TLS is spoken
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_serving_server_is_healthy(run: Run) -> None:
    """The exit code is 0."""
    assert run("health").out == "serving\n"
    assert run("health").code == 0


def test_a_draining_server_is_not(run: Run, fake: Fake) -> None:
    """The exit code is 1, without an error."""
    fake.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    result = run("health")
    assert (result.code, result.out, result.err) == (1, "not serving\n", "")


def test_no_server_is_not(run: Run) -> None:
    """The exit code is 1, with the reason."""
    result = run("health", "--address", "127.0.0.1:1", "--timeout", "5")
    assert result.code == 1
    assert "does not answer" in result.err


@pytest.fixture(params=[False, True], ids=["plain", "encrypted"])
def context(request: pytest.FixtureRequest, tmp_path: Path) -> ssl.SSLContext | None:
    if not request.param:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*Authority().write(tmp_path))
    return context


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_over_http_readiness_counts(run: Run, context: ssl.SSLContext | None, status: int, code: int) -> None:
    """Encrypted or not, and whoever signed the certificate: it is this machine that is asked."""
    with serve_readiness(status, context) as address:
        assert run("health", "--http", address).code == code


def test_over_http_no_server_is_not(run: Run) -> None:
    """Nor is what is no address."""
    assert (run("health", "--http", "127.0.0.1:1").code, run("health", "--http", "nowhere").code) == (1, 1)
