"""A principal's quota holds on a whole server, and the client library waits as it is told."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from tests.certificates import replace
from tests.server.running_app import LOCAL, fetch

from carousel.app import Running, running
from carousel.client import AsyncClient, Retries, ServerError
from carousel.identity.principals import digest
from carousel.settings import read_settings

TOKENS = {name: f"crl_{name}{'x' * 40}" for name in ("slow", "free", "ops")}
ONCE = Retries(max_attempts=1)


def file_of(quota: str) -> bytes:
    return f"""
[[principal]]
name = "slow"
tokens = ["{digest(TOKENS["slow"])}"]
scopes = ["generate", "sessions"]
[principal.quota]
{quota}

[[principal]]
name = "free"
tokens = ["{digest(TOKENS["free"])}"]
scopes = ["generate", "sessions"]

[[principal]]
name = "ops"
tokens = ["{digest(TOKENS["ops"])}"]
scopes = ["metrics"]
""".encode()


@pytest.fixture
async def server(bundle: Path, tmp_path: Path) -> AsyncIterator[Running]:
    path = tmp_path / "principals.toml"
    path.write_bytes(file_of("max_sessions = 2"))
    async with running(bundle, read_settings({}, LOCAL | {"principals": str(path)})) as server:
        yield server


def client_of(server: Running, name: str, retries: Retries | None = None) -> AsyncClient:
    return AsyncClient(server.grpc_address, token=TOKENS[name], retries=retries, timeout_seconds=30)


async def until_limited(server: Running, tmp_path: Path, quota: str, limit: str) -> None:
    """Gives `slow` another quota, and waits until it has used it up."""
    replace(tmp_path / "principals.toml", file_of(quota))
    async with client_of(server, "slow", ONCE) as client, asyncio.timeout(20):
        with pytest.raises(ServerError) as told:
            await generate_for_ever(client)
    assert (told.value.code, told.value.details["limit"]) == ("RESOURCE_EXHAUSTED", limit)


async def generate_for_ever(client: AsyncClient) -> None:
    while True:
        async for _ in client.generate("hello", max_tokens=5):
            pass


async def test_sessions_are_bounded_for_the_one_and_not_for_the_other(server: Running) -> None:
    """Its own oldest session goes, as with max_sessions_per_owner."""
    async with client_of(server, "slow") as slow, client_of(server, "free") as free:
        for number in range(4):
            await slow.create_session(f"s{number}")
            await free.create_session(f"s{number}")
        assert [one.session_id async for one in slow.list_sessions()] == ["s2", "s3"]
        assert len([one async for one in free.list_sessions()]) == 4


@pytest.mark.parametrize(
    ("quota", "limit"),
    [
        ("max_requests_per_second = 2", "max_requests_per_second"),
        ("max_tokens_per_second = 20", "max_tokens_per_second"),
    ],
)
async def test_a_rate_refuses_and_the_library_waits(server: Running, tmp_path: Path, quota: str, limit: str) -> None:
    """The refusal says for how long; after it the same call goes on. Others feel nothing."""
    await until_limited(server, tmp_path, quota, limit)
    started = time.monotonic()
    async with client_of(server, "slow") as slow, client_of(server, "free", ONCE) as free:
        for _ in range(20):
            async for _piece in free.generate("hello", max_tokens=5):
                pass
        async with slow.session() as session:
            for _ in range(3):
                async for _piece in session.generate("hello", max_tokens=5):
                    pass
    assert time.monotonic() - started > 0.9  # at two requests or twenty tokens a second
    _, page = await fetch(server.http_address, "/metrics", f"Authorization: Bearer {TOKENS['ops']}")
    assert f'carousel_refusals_total{{reason="{limit}"}}' in page
    assert 'carousel_principal_requests_total{code="RESOURCE_EXHAUSTED",principal="slow"}' in page
    assert 'carousel_principal_tokens_total{principal="free"} 180.0' in page


async def test_messages_of_a_stream_count_as_requests(server: Running, tmp_path: Path) -> None:
    """A stream is no way around the rate: the predictor waits, and every answer is there once."""
    await until_limited(server, tmp_path, "max_requests_per_second = 10", "max_requests_per_second")
    started = time.monotonic()
    async with client_of(server, "slow") as slow, slow.session() as session, session.predictor() as predict:
        for number in range(15):
            assert (await predict([65])).position == number + 1
    assert time.monotonic() - started > 1.0


async def test_a_call_that_is_given_up_has_used_its_tokens(server: Running, tmp_path: Path) -> None:
    """Whoever cancels pays for what was read."""
    await until_limited(server, tmp_path, "max_tokens_per_second = 50", "max_tokens_per_second")
    async with client_of(server, "slow") as slow, slow.session(keep=True) as session:  # its end would wait, too
        stream = session.generate("hello", max_tokens=10_000)
        num_tokens = 0
        async for piece in stream:
            if (num_tokens := num_tokens + len(piece.tokens)) > 1000:  # a debt of many seconds
                break
        await stream.close()
        with pytest.raises(ServerError) as told:
            async with client_of(server, "slow", ONCE) as client:
                await client.create_session("refused")
    assert told.value.details["limit"] == "max_tokens_per_second"


async def test_a_refusal_has_the_seconds_in_its_details(server: Running, tmp_path: Path) -> None:
    """As google.rpc.RetryInfo."""
    await until_limited(server, tmp_path, "max_requests_per_second = 0.1", "max_requests_per_second")
    async with client_of(server, "slow", ONCE) as client:
        with pytest.raises(ServerError) as told:
            await client.create_session("refused")
    assert told.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED.name
    assert told.value.retry_after_seconds is not None
    assert 5 < told.value.retry_after_seconds <= 10
