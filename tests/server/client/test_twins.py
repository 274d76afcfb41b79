"""The two clients answer alike, continue each other's sessions, and are cheap to import."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.server.fake_service import FakeService

from carousel.client import AsyncClient, ChangeOptions, Client


@pytest.fixture
def blocking(address: str) -> Iterator[Client]:
    with Client(address, timeout_seconds=20) as client:
        yield client


async def test_both_answer_the_same(address: str, blocking: Client) -> None:
    """This covers every call that only reads, and every kind of turn."""
    async with AsyncClient(address, timeout_seconds=20) as other:
        assert [piece async for piece in other.generate("a", seed=1)] == list(blocking.generate("a", seed=1))
        assert [piece async for piece in other.score("ab", top_g=3)] == list(blocking.score("ab", top_g=3))
        assert await other.predict("ab", k=3, word_prefix="") == blocking.predict("ab", k=3, word_prefix="")
        assert await other.tokenize("né") == blocking.tokenize("né")
        assert await other.detokenize([104, 105]) == blocking.detokenize([104, 105])
        assert await other.models() == blocking.models()
        assert await other.model() == blocking.model()
        assert await other.is_serving() is blocking.is_serving() is True
        for name in "abc":
            await other.create_session(name)
        assert [one async for one in other.list_sessions()] == list(blocking.list_sessions())
        assert await other.get_session("a") == blocking.get_session("a")


async def test_a_session_is_made_under_the_callers_id(address: str, blocking: Client, service: FakeService) -> None:
    """The block's options apply to its creation; a retried creation returns the session at its current position."""
    options = ChangeOptions(request_id="own", timeout_seconds=9)
    with blocking.session("a", model="m", keep=True, **options) as one:
        one.feed("xy")
    async with AsyncClient(address) as other, other.session("a", model="m", **options) as two:
        assert two.position == 2
        assert await two.feed("z") == 3
    made = [request for request in service.changes if request.request_id == "own"]
    assert [(request.session_id, request.model) for request in made] == [("a", "m")] * 2
    assert service.positions == {}


def test_both_say_who_they_are(blocking: Client) -> None:
    """Each has the name that its user knows."""
    assert repr(blocking).startswith("Client(")
    assert repr(blocking.open_session("a")) == "Session('a')"


async def test_the_asyncio_client_says_who_it_is() -> None:
    """By its own name."""
    async with AsyncClient("here:1") as client:
        assert (repr(client), repr(client.open_session("a"))) == ("AsyncClient('here:1')", "AsyncSession('a')")


def test_the_client_stays_light() -> None:
    """Importing it loads neither the model's runtime, nor arrays, nor any other part of the server."""
    code = "import sys, carousel.client; print(' '.join(sys.modules))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    )
    assert not loaded & {"numpy", "onnxruntime", "tokenizers", "pydantic", "rich", "typer", "starlette", "structlog"}
    ours = {name for name in loaded if name.startswith("carousel.") and not name.startswith("carousel.v1")}
    assert all(name.startswith("carousel.client") or name == "carousel.errors" for name in ours)
