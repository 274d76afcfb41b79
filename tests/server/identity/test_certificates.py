"""A pair of certificate and key that does not fit is found when it is read; a good one takes effect at the next
handshake, over gRPC and over HTTP."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.certificates import Authority, replace

from carousel.errors import SettingsInvalid
from carousel.identity.certificates import (
    Certificate,
    CertificateFiles,
    http_context,
    watch_certificate,
)
from carousel.identity.watched_files import WatchedFiles
from carousel.rpc.credentials import grpc_credentials

OPTIONS = (("grpc.use_local_subchannel_pool", 1),)  # each channel shakes hands by itself


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> CertificateFiles:
    return CertificateFiles(*authority.write(tmp_path))


def watch(files: CertificateFiles) -> WatchedFiles[Certificate]:
    return watch_certificate(files, lambda name, is_good: None)


def with_callers(files: CertificateFiles, authority: Authority, folder: Path) -> CertificateFiles:
    return CertificateFiles(files.cert, files.key, authority.write_own(folder))


def test_a_certificate_says_how_long_it_is_valid(authority: Authority, tmp_path: Path) -> None:
    """One that is over is read all the same: the clock of this machine may be wrong, and callers decide."""
    valid = watch(CertificateFiles(*authority.write(tmp_path, "valid", days=3))).current.valid_until
    over = watch(CertificateFiles(*authority.write(tmp_path, "over", days=-1))).current.valid_until
    assert valid - over == pytest.approx(4 * 86_400, abs=60)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("server.crt", b"no certificate", "server.crt holds no PEM certificate"),
        ("server.crt", b"", "server.crt holds no PEM certificate"),
        ("server.key", b"no key", "server.key holds no PEM private key"),
        ("ca.crt", b"nobody", "ca.crt holds no PEM certificate"),
    ],
)
def test_a_bad_file_is_named(
    files: CertificateFiles, authority: Authority, tmp_path: Path, name: str, content: bytes, why: str
) -> None:
    files = with_callers(files, authority, tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingsInvalid, match=why):
        watch(files)


def test_a_key_of_another_certificate_is_refused(files: CertificateFiles, authority: Authority) -> None:
    """A half-written pair is one of these."""
    watched = watch(files)
    used = watched.current
    certificate, _ = authority.sign("server")
    replace(files.cert, certificate)
    assert not watched.look()
    assert watched.current is used


def test_a_key_with_a_password_is_refused(files: CertificateFiles) -> None:
    """Nobody is there to type it."""
    secret = serialization.BestAvailableEncryption(b"secret")
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
    files.key.write_bytes(pem)
    with pytest.raises(SettingsInvalid, match="without a password"):
        watch(files)


@contextlib.asynccontextmanager
async def grpc_server(watched: WatchedFiles[Certificate]) -> AsyncIterator[int]:
    """One without services: whoever gets in is told UNIMPLEMENTED."""
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", grpc_credentials(watched))
    await server.start()
    try:
        yield int(port)
    finally:
        await server.stop(None)


async def ask_grpc(port: int, authority: Authority, own: tuple[bytes, bytes] | None = None) -> grpc.StatusCode:
    """How a call ends, of a caller that trusts `authority` and shows a certificate, if it has one."""
    certificate, key = own or (None, None)
    credentials = grpc.ssl_channel_credentials(authority.pem, key, certificate)
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials, OPTIONS) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary("/no/method")(b"", timeout=10)
        code: grpc.StatusCode = raised.value.code()
        return code


async def test_grpc_takes_a_new_pair_at_the_next_handshake(files: CertificateFiles, authority: Authority) -> None:
    """A bad one in between changes nothing."""
    watched, other = watch(files), Authority("another")
    async with grpc_server(watched) as port:
        assert await ask_grpc(port, authority) is grpc.StatusCode.UNIMPLEMENTED
        assert await ask_grpc(port, other) is grpc.StatusCode.UNAVAILABLE
        replace(files.key, b"no key")
        assert not watched.look()
        assert await ask_grpc(port, authority) is grpc.StatusCode.UNIMPLEMENTED
        other.write(files.cert.parent)
        assert watched.look()
        assert await ask_grpc(port, other) is grpc.StatusCode.UNIMPLEMENTED
        assert await ask_grpc(port, authority) is grpc.StatusCode.UNAVAILABLE


async def test_grpc_keeps_open_connections_through_a_change(files: CertificateFiles, authority: Authority) -> None:
    watched, other = watch(files), Authority("another")
    credentials = grpc.ssl_channel_credentials(authority.pem)
    async with grpc_server(watched) as port, grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
                await channel.unary_unary("/no/method")(b"", timeout=10)
            other.write(files.cert.parent)
            watched.look()


async def test_grpc_lets_in_whom_the_signer_signed(
    files: CertificateFiles, authority: Authority, tmp_path: Path
) -> None:
    """Without a certificate, or with one that somebody else signed, there is no connection; another signer in the
    file changes who is let in."""
    watched, other = watch(with_callers(files, authority, tmp_path)), Authority("another")
    mine, foreign = authority.sign("me"), other.sign("me")
    async with grpc_server(watched) as port:
        assert await ask_grpc(port, authority, mine) is grpc.StatusCode.UNIMPLEMENTED
        assert await ask_grpc(port, authority) is grpc.StatusCode.UNAVAILABLE
        assert await ask_grpc(port, authority, foreign) is grpc.StatusCode.UNAVAILABLE
        replace(tmp_path / "ca.crt", other.pem)
        assert watched.look()
        assert await ask_grpc(port, authority, foreign) is grpc.StatusCode.UNIMPLEMENTED
        assert await ask_grpc(port, authority, mine) is grpc.StatusCode.UNAVAILABLE


@contextlib.asynccontextmanager
async def https_server(context: ssl.SSLContext) -> AsyncIterator[int]:
    """Says whose certificate it saw."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = writer.get_extra_info("ssl_object").getpeercert()
        writer.write(f"{dict(sum(seen['subject'], ()))['commonName'] if seen else 'nobody'}\n".encode())
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


def ask_https(port: int, authority: Authority, own: tuple[Path, Path] | None = None) -> str:
    context = ssl.create_default_context(cadata=authority.pem.decode())
    if own is not None:
        context.load_cert_chain(*own)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        try:
            return connection.recv(100).decode().strip() or "refused"
        except (ssl.SSLError, ConnectionError):  # in TLS 1.3 the client is through before the server has looked
            return "refused"


@pytest.fixture
def own(authority: Authority, tmp_path: Path) -> tuple[Path, Path]:
    folder = tmp_path / "callers"
    folder.mkdir()
    return authority.write(folder, "me")


async def test_http_takes_a_new_pair_at_the_next_handshake(files: CertificateFiles, authority: Authority) -> None:
    watched, other = watch(files), Authority("another")
    async with https_server(http_context(watched)) as port:
        for _ in range(2):  # again after the first change: the context that chooses is still the first one
            assert await asyncio.to_thread(ask_https, port, authority) == "nobody"
            other.write(files.cert.parent)
            assert watched.look()
            assert await asyncio.to_thread(ask_https, port, other) == "nobody"
            with pytest.raises(ssl.SSLCertVerificationError):
                await asyncio.to_thread(ask_https, port, authority)
            authority.write(files.cert.parent)
            assert watched.look()


async def test_http_asks_for_a_certificate_and_needs_none(
    files: CertificateFiles, authority: Authority, tmp_path: Path, own: tuple[Path, Path]
) -> None:
    """Probes have none. One that nobody trusts is refused; another signer counts from the next handshake on."""
    watched, other = watch(with_callers(files, authority, tmp_path)), Authority("another")
    async with https_server(http_context(watched)) as port:
        assert await asyncio.to_thread(ask_https, port, authority) == "nobody"
        assert await asyncio.to_thread(ask_https, port, authority, own) == "me"
        replace(tmp_path / "ca.crt", other.pem)
        assert watched.look()
        assert await asyncio.to_thread(ask_https, port, authority, own) == "refused"


async def test_http_for_callers_demands_a_certificate(
    files: CertificateFiles, authority: Authority, tmp_path: Path, own: tuple[Path, Path]
) -> None:
    """As gRPC does, also after a change; without an authority of callers it demands none."""
    watched, other = watch(with_callers(files, authority, tmp_path)), Authority("another")
    async with https_server(http_context(watched, for_callers=True)) as port:
        assert await asyncio.to_thread(ask_https, port, authority) == "refused"
        assert await asyncio.to_thread(ask_https, port, authority, own) == "me"
        replace(tmp_path / "ca.crt", other.pem)
        assert watched.look()
        for certificate in (None, own):
            assert await asyncio.to_thread(ask_https, port, authority, certificate) == "refused"
    async with https_server(http_context(watch(files), for_callers=True)) as port:
        assert await asyncio.to_thread(ask_https, port, authority) == "nobody"
