"""A whole server with certificates: what it shows, whom it lets in, and what happens when the files change."""

import asyncio
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2 as httpx
import pytest
from tests.certificates import Authority, replace
from tests.server.running_app import LOCAL

from carousel.app import Running, running
from carousel.client import AsyncClient, ServerUnreachable, Tls
from carousel.errors import SettingsInvalid
from carousel.settings import read_settings

SECONDS = 20


@pytest.fixture
def folder(authority: Authority, tmp_path: Path) -> Path:
    """With the server's pair, a caller's, and who signed both."""
    authority.write_own(tmp_path)
    for name in ("server", "me"):
        authority.write(tmp_path, name)
    return tmp_path


def files(folder: Path, *, asks: bool = False) -> dict[str, str]:
    found = {"tls_cert": str(folder / "server.crt"), "tls_key": str(folder / "server.key")}
    return found | {"tls_client_ca": str(folder / "ca.crt")} if asks else found


@pytest.fixture
async def server(bundle: Path, folder: Path) -> AsyncIterator[Running]:
    async with running(bundle, read_settings({}, LOCAL | files(folder))) as server:
        yield server


def fetch(address: str, path: str, ca: bytes | None) -> str:
    scheme = "http" if ca is None else "https"
    context = None if ca is None else ssl.create_default_context(cadata=ca.decode())
    with urllib.request.urlopen(f"{scheme}://{address}{path}", timeout=SECONDS, context=context) as answer:
        return str(answer.read().decode())


async def test_both_ports_are_encrypted(server: Running, folder: Path, authority: Authority) -> None:
    """Whoever trusts the signer is served; nothing is said in plain text."""
    async with AsyncClient(server.grpc_address, tls=Tls(ca=folder / "ca.crt"), timeout_seconds=SECONDS) as client:
        assert len([piece async for piece in client.generate("ab", max_tokens=3)]) > 0
    async with AsyncClient(server.grpc_address, timeout_seconds=SECONDS) as plain:
        with pytest.raises(ServerUnreachable):
            await plain.models()
    assert await asyncio.to_thread(fetch, server.http_address, "/healthz", authority.pem) == "ok\n"
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        await asyncio.to_thread(fetch, server.http_address, "/healthz", None)


async def test_http_may_stay_plain(bundle: Path, folder: Path) -> None:
    """For probes, where the setting says so; gRPC stays encrypted."""
    settings = read_settings({}, LOCAL | files(folder) | {"plaintext": "http"})
    async with running(bundle, settings) as server:
        assert await asyncio.to_thread(fetch, server.http_address, "/readyz", None) == "ready\n"
        async with AsyncClient(server.grpc_address, timeout_seconds=SECONDS) as plain:
            with pytest.raises(ServerUnreachable):
                await plain.models()


async def test_callers_show_a_certificate_where_it_is_asked_for(
    bundle: Path, folder: Path, authority: Authority
) -> None:
    """Over gRPC and at the web address nobody comes in without one; probes do."""
    settings = read_settings({}, LOCAL | files(folder, asks=True) | {"openai_listen": "127.0.0.1:0"})
    async with running(bundle, settings) as server:
        mine = Tls(ca=folder / "ca.crt", cert=folder / "me.crt", key=folder / "me.key")
        async with AsyncClient(server.grpc_address, tls=mine, timeout_seconds=SECONDS) as client:
            assert await client.models()
        async with AsyncClient(server.grpc_address, tls=Tls(ca=folder / "ca.crt"), timeout_seconds=SECONDS) as stranger:
            with pytest.raises(ServerUnreachable):
                await stranger.models()
        assert await asyncio.to_thread(fetch, server.http_address, "/healthz", authority.pem) == "ok\n"
        for path in ("/v1/models", "/carousel/v1/figures", "/"):
            with pytest.raises((urllib.error.URLError, ConnectionError)):
                await asyncio.to_thread(fetch, server.openai_address, path, authority.pem)
        context = ssl.create_default_context(cadata=authority.pem.decode())
        context.load_cert_chain(folder / "me.crt", folder / "me.key")
        async with httpx.AsyncClient(verify=context) as caller:
            assert (await caller.get(f"{server.openai_url}/models")).status_code == 200


async def test_new_files_take_effect_while_a_stream_goes_on(
    server: Running, folder: Path, authority: Authority
) -> None:
    """A bad pair is counted, and nobody notices. With a good one new connections see it, and the old stream lives."""
    trusting, other = Tls(ca=folder / "ca.crt"), Authority("another")
    async with (
        AsyncClient(server.grpc_address, tls=trusting, timeout_seconds=SECONDS) as client,
        client.predictor() as predictor,
    ):
        await predictor("a")
        replace(folder / "server.key", b"no key")
        await until_counted(server, authority, "refused")
        await predictor("b")
        other.write(folder, "server")
        await until_counted(server, other, "taken")
        assert (await predictor("c")).position == 3
    replace(folder / "other.crt", other.pem)
    new = Tls(ca=folder / "other.crt")
    async with AsyncClient(server.grpc_address, tls=new, timeout_seconds=SECONDS) as client:
        assert await client.models()


async def until_counted(server: Running, authority: Authority, outcome: str) -> None:
    line = f'carousel_files_read_total{{outcome="{outcome}",setting="tls_cert"}} 1.0'
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                if line in await asyncio.to_thread(fetch, server.http_address, "/metrics", authority.pem):
                    return
            except urllib.error.URLError:  # not yet this authority's
                await asyncio.sleep(0.05)


async def test_the_certificates_end_is_a_metric(server: Running, authority: Authority) -> None:
    """So that somebody is told before it is over."""
    async with asyncio.timeout(SECONDS):
        while True:
            page = await asyncio.to_thread(fetch, server.http_address, "/metrics", authority.pem)
            value = float(page.partition("\ncarousel_tls_certificate_valid_until ")[2].split("\n")[0])
            if value:
                break
    assert value > 1.7e9


@pytest.mark.parametrize("name", ["server.crt", "server.key", "ca.crt"])
async def test_a_server_does_not_start_on_bad_files(bundle: Path, folder: Path, name: str) -> None:
    """It says which one, and leaves no port behind."""
    (folder / name).write_bytes(b"nothing")
    with pytest.raises(SettingsInvalid, match=name):
        async with running(bundle, read_settings({}, LOCAL | files(folder, asks=True))):
            pass
