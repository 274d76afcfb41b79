"""`carousel health`, as a container runtime uses it."""

from grpc_health.v1 import health_pb2
from tests.server.cli.conftest import Fake, Run


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
