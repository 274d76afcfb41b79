"""A client that is told whom to trust reaches an encrypted server, and no other."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from tests.certificates import Authority
from tests.server.fake_service import serve_fake

from carousel.client import AsyncClient, ServerUnreachable, Tls

SECONDS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Path:
    """With `ca.crt`, and a caller's `me.crt` and `me.key`."""
    folder = tmp_path_factory.mktemp("tls")
    authority.write_own(folder)
    authority.write(folder, "me")
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["tls", "mtls"])
def server(request: pytest.FixtureRequest, authority: Authority) -> Iterator[tuple[str, bool]]:
    """Address, and whether it asks for callers' certificates."""
    certificate, key = authority.sign("server")
    signer = authority.pem if request.param else None
    credentials = grpc.ssl_server_credentials([(key, certificate)], signer, request.param)
    with serve_fake(credentials=credentials) as (address, _, _):
        yield address, request.param


@pytest.fixture
def tls(server: tuple[str, bool], folder: Path) -> Tls:
    if server[1]:
        return Tls(ca=folder / "ca.crt", cert=folder / "me.crt", key=folder / "me.key")
    return Tls(ca=str(folder / "ca.crt"))


async def test_trusted_servers_answer(server: tuple[str, bool], tls: Tls) -> None:
    """Files may be named by text or by path."""
    async with AsyncClient(server[0], tls=tls, timeout_seconds=SECONDS) as client:
        assert await client.is_serving()


@pytest.mark.parametrize("name", ["nothing", "other", "plain"])
async def test_no_other_server_is_spoken_to(server: tuple[str, bool], tmp_path: Path, name: str) -> None:
    """Neither one that nobody known has signed, nor one that somebody else has; and a plain client finds no server."""
    other = Tls(ca=Authority("another").write_own(tmp_path))
    tls = other if name == "other" else name == "nothing"
    async with AsyncClient(server[0], tls=tls, timeout_seconds=SECONDS) as client:
        with pytest.raises(ServerUnreachable):
            await client.models()


def test_a_certificate_needs_its_key() -> None:
    for half in ({"cert": "me.crt"}, {"key": "me.key"}):
        with pytest.raises(ValueError, match="go together"):
            Tls(**half)


async def test_what_cannot_be_used_is_refused_at_once(folder: Path) -> None:
    """Before any call: files that are not there, and two kinds of credentials."""
    with pytest.raises(FileNotFoundError, match="nowhere.crt"):
        AsyncClient("localhost:1", tls=Tls(ca=folder / "nowhere.crt"))
    with pytest.raises(ValueError, match="credentials or tls"):
        AsyncClient("localhost:1", tls=True, credentials=grpc.ssl_channel_credentials())
