"""A whole server with principals: whom it lets in by token and by certificate, and what a changed file does."""

import asyncio
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.certificates import Authority, replace
from tests.server.running_app import LOCAL

from carousel.app import Running, running
from carousel.client import AsyncClient, AsyncPredictor, ServerError, Tls
from carousel.errors import SettingsInvalid
from carousel.identity.principals import digest
from carousel.settings import read_settings

SECONDS = 20
TOKENS = {name: f"crl_{name}{'x' * 40}" for name in ("search", "ops")}
FILE = f"""
[[principal]]
name = "search"
tokens = ["{digest(TOKENS["search"])}"]
certificates = ["spiffe://cluster/search"]
scopes = ["generate", "sessions"]

[[principal]]
name = "ops"
tokens = ["{digest(TOKENS["ops"])}"]
certificates = ["ops.example"]
scopes = ["metrics"]
"""


@pytest.fixture
def folder(authority: Authority, tmp_path: Path) -> Path:
    """With the server's pair, who signed it, callers' pairs, and the principals."""
    authority.write_own(tmp_path)
    for name, uris in (("server", ()), ("search", ("spiffe://cluster/search",)), ("ops.example", ())):
        certificate, key = authority.sign(name, uris=uris)
        replace(tmp_path / f"{name}.crt", certificate)
        replace(tmp_path / f"{name}.key", key)
    replace(tmp_path / "principals.toml", FILE.encode())
    return tmp_path


@pytest.fixture
async def server(bundle: Path, folder: Path) -> AsyncIterator[Running]:
    """Encrypted."""
    files = {"tls_cert": "server.crt", "tls_key": "server.key", "principals": "principals.toml"}
    given = LOCAL | {name: str(folder / file) for name, file in files.items()}
    async with running(bundle, read_settings({}, given)) as server:
        yield server


def client_of(server: Running, folder: Path, name: str | None) -> AsyncClient:
    token = None if name is None else TOKENS.get(name, name)
    return AsyncClient(server.grpc_address, tls=Tls(ca=folder / "ca.crt"), token=token, timeout_seconds=SECONDS)


def fetch(
    server: Running, authority: Authority, path: str, token: str = "", pair: tuple[Path, Path] | None = None
) -> int:
    """The status."""
    context = ssl.create_default_context(cadata=authority.pem.decode())
    if pair is not None:
        context.load_cert_chain(*pair)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"https://{server.http_address}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS, context=context) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


async def test_a_token_opens_what_its_scopes_say(server: Running, folder: Path) -> None:
    """Wrong and missing ones get the same answer, and nobody is retried into a second one."""
    async with client_of(server, folder, "search") as client:
        session = await client.create_session()
        assert [piece async for piece in client.generate("ab", max_tokens=3, session_id=session.session_id)]
        with pytest.raises(ServerError, match="needs the scope score") as refused:
            [piece async for piece in client.score("ab")]
        assert refused.value.code == "PERMISSION_DENIED"
    for name in (None, "wrong" * 10):
        async with client_of(server, folder, name) as client:
            with pytest.raises(ServerError, match="needs a token or a certificate that this server knows") as refused:
                await client.models()
            assert refused.value.code == "UNAUTHENTICATED"
            assert await client.is_serving()  # for balancers


async def test_metrics_need_their_scope_and_probes_nothing(server: Running, authority: Authority) -> None:
    """By token here."""
    given = {"/metrics": ["", "wrong" * 10, TOKENS["search"], TOKENS["ops"]], "/healthz": [""], "/readyz": [""]}
    found = {
        path: [await asyncio.to_thread(fetch, server, authority, path, token) for token in tokens]
        for path, tokens in given.items()
    }
    assert found == {"/metrics": [401, 401, 403, 200], "/healthz": [200], "/readyz": [200]}


async def test_certificates_do_the_same(bundle: Path, folder: Path, authority: Authority) -> None:
    """On both ports, where the server asks for them; a token beside one decides."""
    files = {
        "tls_cert": "server.crt",
        "tls_key": "server.key",
        "tls_client_ca": "ca.crt",
        "principals": "principals.toml",
    }
    given = LOCAL | {name: str(folder / file) for name, file in files.items()}
    pairs = {name: (folder / f"{name}.crt", folder / f"{name}.key") for name in ("search", "ops.example")}
    async with running(bundle, read_settings({}, given)) as server:
        cert, key = pairs["search"]
        tls = Tls(ca=folder / "ca.crt", cert=cert, key=key)
        async with AsyncClient(server.grpc_address, tls=tls, timeout_seconds=SECONDS) as client:
            assert await client.predict("a")
        async with AsyncClient(server.grpc_address, tls=tls, token=TOKENS["ops"], timeout_seconds=SECONDS) as client:
            with pytest.raises(ServerError, match="ops does not have"):
                await client.predict("a")
        for name, status in (("search", 403), ("ops.example", 200)):
            assert await asyncio.to_thread(fetch, server, authority, "/metrics", "", pairs[name]) == status
        assert await asyncio.to_thread(fetch, server, authority, "/metrics") == 401


async def test_a_changed_file_counts_while_streams_go_on(server: Running, folder: Path, authority: Authority) -> None:
    """A bad file changes nothing. A new one lets nobody else down; who is gone from it is ended."""
    path, old, new = folder / "principals.toml", digest(TOKENS["search"]), digest("new" * 20)
    async with client_of(server, folder, "search") as client, client.predictor() as predictor:
        await predictor("a")
        replace(path, b"nothing")
        await until_counted(server, authority, "refused")
        await predictor("b")
        replace(path, FILE.replace(f'"{old}"', f'"{old}", "{new}"').encode())
        await until_counted(server, authority, "taken")
        assert (await predictor("c")).position == 3
        async with client_of(server, folder, "new" * 20) as renewed:
            assert await renewed.models()
        replace(path, FILE.replace(old, new).encode())
        async with asyncio.timeout(SECONDS):
            assert await until_refused(predictor) == "UNAUTHENTICATED"


async def until_refused(predictor: AsyncPredictor) -> str:
    """The code."""
    while True:
        try:
            await predictor("d")
        except ServerError as error:
            return error.code


async def until_counted(server: Running, authority: Authority, outcome: str) -> None:
    line = f'carousel_files_read_total{{outcome="{outcome}",setting="principals"}} 1.0'
    context = ssl.create_default_context(cadata=authority.pem.decode())
    headers = {"Authorization": f"Bearer {TOKENS['ops']}"}
    request = urllib.request.Request(f"https://{server.http_address}/metrics", headers=headers)

    def read() -> str:
        with urllib.request.urlopen(request, timeout=SECONDS, context=context) as answer:
            return str(answer.read().decode())

    async with asyncio.timeout(SECONDS):
        while line not in await asyncio.to_thread(read):
            pass


@pytest.mark.parametrize("content", [None, b"nothing"])
async def test_a_server_does_not_start_without_its_principals(
    bundle: Path, folder: Path, content: bytes | None
) -> None:
    """Nobody is let in because a file is missing or bad."""
    path = folder / "principals.toml"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(SettingsInvalid, match="^principals: .*principals.toml"):
        async with running(bundle, read_settings({}, LOCAL | {"principals": str(path)})):
            pass
