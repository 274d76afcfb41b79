"""A tiny server of the wire contract, and clients of it."""

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from tests.server.fake_service import FakeService, serve_fake

from carousel.client import AsyncClient, Client


@pytest.fixture
def fake() -> Iterator[tuple[str, FakeService]]:
    with serve_fake() as (address, service, _):
        yield address, service


@pytest.fixture
def client(fake: tuple[str, FakeService]) -> Iterator[Client]:
    with Client(fake[0], timeout_seconds=20) as client:
        yield client


@pytest.fixture
def service(fake: tuple[str, FakeService]) -> FakeService:
    return fake[1]


async def done(answer: Any) -> Any:
    """What either client has answered."""
    return await answer if inspect.isawaitable(answer) else answer


def read(stream: Any) -> Any:
    """All that either client's stream brings, through `done`."""

    async def read_all() -> list[Any]:
        return [answer async for answer in stream]

    return read_all() if hasattr(stream, "__aiter__") else list(stream)


async def leave(predictor: Any) -> None:
    """As the end of its block does."""
    ends = predictor.__aexit__ if hasattr(predictor, "__aexit__") else predictor.__exit__
    await done(ends(None, None, None))


class Either:
    """One of the two clients, so that a test holds for both: what it answers goes through `done`.

    Where it would sleep before a repeat, it does the next of `meanwhile`.
    """

    def __init__(self, address: str, *, is_async: bool) -> None:
        self.meanwhile: list[Callable[[], Any]] = []
        self.client: Any = (
            AsyncClient(address, timeout_seconds=20, sleep=self._sleep_later)
            if is_async
            else Client(address, timeout_seconds=20, sleep=self._sleep)
        )

    async def start(self, session_id: str = "mine") -> Any:
        """A new session."""
        made = await done(self.client.create_session(session_id))
        return self.find(made.session_id, made.position)

    def find(self, session_id: str, position: int | None = None) -> Any:
        return self.client.open_session(session_id, position=position)

    def _sleep(self, seconds: float) -> None:
        if self.meanwhile:
            self.meanwhile.pop(0)()

    async def _sleep_later(self, seconds: float) -> None:
        if self.meanwhile:
            await done(self.meanwhile.pop(0)())


@pytest.fixture(params=["blocking", "asyncio"])
async def either(request: pytest.FixtureRequest, fake: tuple[str, FakeService]) -> AsyncIterator[Either]:
    either = Either(fake[0], is_async=request.param == "asyncio")
    yield either
    await done(either.client.close())


class Naps:
    """Sleeps that only count."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)

    async def later(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def naps() -> Naps:
    return Naps()


@pytest.fixture
def patient(fake: tuple[str, FakeService], naps: Naps) -> Iterator[Client]:
    """A client that repeats without waiting."""
    with Client(fake[0], timeout_seconds=20, sleep=naps) as client:
        yield client
