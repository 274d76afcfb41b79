"""The command run in this process, as a shell would run it, against a tiny server of the same contract."""

import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from grpc_health.v1 import health
from tests.server.fake_service import FakeService, serve_fake

from carousel.cli.main import main


@dataclass(frozen=True)
class Fake:
    address: str
    service: FakeService
    health: health.HealthServicer


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def fake() -> Iterator[Fake]:
    with serve_fake() as parts:
        yield Fake(*parts)


@pytest.fixture
def run(fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command, as `run("generate", "a", stdin=b"")`; the server's address is in the environment."""

    def invoke(*arguments: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "argv", ["carousel", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            main()
        return Result(ended.value.code if isinstance(ended.value.code, int) else 0, *capsys.readouterr())

    monkeypatch.setenv("CAROUSEL_ADDRESS", fake.address)
    return invoke
