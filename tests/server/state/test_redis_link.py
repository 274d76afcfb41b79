"""What Redis is accepted: versions of the format, policies, passwords, TLS."""

import datetime
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from redis.asyncio.client import Pipeline
from tests.server.state.conftest import (
    LONG,
    QUICK,
    open_session,
    run_redis,
)
from tests.server.state.redis_opening import opened, run_cli

from carousel.errors import StoreInvalid, StoreUnavailable
from carousel.state.redis_store import RedisStore
from carousel.state.redis_terms import Timing


async def test_a_redis_that_drops_keys_is_refused(tmp_path: Path) -> None:
    """An eviction policy would lose sessions in silence."""
    with run_redis(tmp_path, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as server:
        with pytest.raises(StoreInvalid, match="maxmemory-policy allkeys-lru"):
            await RedisStore(server.url, LONG, timing=Timing(lease=10.0)).start(print)
        run_cli(server, "config", "set", "maxmemory-policy", "noeviction")
        async with opened(server):
            pass


async def test_another_format_is_refused(tmp_path: Path) -> None:
    """A newer server's sessions are not touched."""
    with run_redis(tmp_path) as server:
        run_cli(server, "set", "carousel2:format", "3")
        with pytest.raises(StoreInvalid, match="format version 3, this server reads 2"):
            await RedisStore(server.url, LONG, timing=Timing(lease=10.0)).start(print)
        assert run_cli(server, "get", "carousel2:format") == "3"


async def test_a_password_is_needed_and_not_told(tmp_path: Path) -> None:
    """With the right one, in the URL or beside it, it works; a wrong one is StoreInvalid that does not repeat it."""
    with run_redis(tmp_path, "--requirepass", "secret!") as server:
        for url, password in ((server.url, "secret!"), (server.url.replace("//", "//:secret!@"), None)):
            store = RedisStore(url, LONG, password=password, timing=QUICK)
            await store.start(print)
            await open_session(store, str(password))
            assert "secret" not in repr(store)
            await store.close()
        for password in ("wrong!", None):
            store = RedisStore(server.url, LONG, password=password, timing=QUICK)
            with pytest.raises(StoreInvalid) as refused:
                await store.start(print)
            assert "wrong!" not in str(refused.value)


async def test_tls(tmp_path: Path) -> None:
    """rediss:// checks the server's certificate against the authority that the URL names, and refuses another."""
    certificate = _make_certificate(tmp_path)
    with run_redis(tmp_path) as server:
        run_cli(server, "config", "set", "tls-cert-file", str(certificate))
        run_cli(server, "config", "set", "tls-key-file", str(tmp_path / "key.pem"))
        run_cli(server, "config", "set", "tls-ca-cert-file", str(certificate))
        run_cli(server, "config", "set", "tls-auth-clients", "no")
        run_cli(server, "config", "set", "port", "0", "tls-port", str(server.port))
        url = server.url.replace("redis://127.0.0.1", "rediss://localhost")
        store = RedisStore(f"{url}?ssl_ca_certs={certificate}", LONG, timing=QUICK)
        await store.start(print)
        row = await open_session(store)
        assert await store.read("ann", "s") == row
        await store.close()
        with pytest.raises(StoreUnavailable):
            await RedisStore(url, LONG, timing=QUICK).start(print)


def _make_certificate(directory: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    today = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(today - datetime.timedelta(1)).not_valid_after(today + datetime.timedelta(1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    encoding = serialization.Encoding.PEM
    private = serialization.PrivateFormat.PKCS8
    (directory / "key.pem").write_bytes(key.private_bytes(encoding, private, serialization.NoEncryption()))
    path = directory / "certificate.pem"
    path.write_bytes(certificate.public_bytes(encoding))
    return path


def test_redis_is_needed_by_this_store_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module can be imported without the client library; making a store then says what to install."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(StoreInvalid, match=r"pip install carousel-serving\[redis\]"):
        RedisStore("redis://localhost", LONG, timing=Timing(lease=10.0))
    code = "import sys, carousel.state.redis_store; sys.exit('redis' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_an_error_of_the_library_is_a_broken_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it raises while it talks to Redis: tried again, and told in our words in the end."""
    execute, faults = Pipeline.execute, [RuntimeError("lost count")]

    async def fail_first(pipeline: Pipeline, *arguments: Any, **options: Any) -> object:
        if faults:
            raise faults.pop()
        return await execute(pipeline, *arguments, **options)

    with run_redis(tmp_path) as server:
        async with opened(server) as store:
            await open_session(store, "s")
            monkeypatch.setattr(Pipeline, "execute", fail_first)
            assert await store.read("ann", "s") is not None
            faults += [RuntimeError("lost count")] * 2
            with pytest.raises(StoreUnavailable, match="RuntimeError: lost count"):
                await store.read("ann", "s")
