"""The balancer's configurations are valid, and the encrypted one lets only known callers through, each for itself."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from tests.bundles import write_bundle
from tests.certificates import Authority
from tests.server_process import serve

from carousel.client import Client, Retries, ServerError, Tls

_DEPLOY = Path(__file__).parents[2] / "deploy"
_HAPROXY = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
_ONCE = Retries(max_attempts=1)
_PRINCIPALS = """
[[principal]]
name = "balancer"
certificates = ["balancer"]
scopes = ["generate", "score", "sessions"]
forwards = true
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(_HAPROXY is None, reason="haproxy is not installed (Debian package haproxy)"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority's files, a client's and the balancer's."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority()
    authority.write_own(folder)
    for name in ("server", "balancer", "ann", "bob"):
        authority.write(folder, name)
    (folder / "balancer.pem").write_bytes(
        (folder / "balancer.crt").read_bytes() + (folder / "balancer.key").read_bytes()
    )
    (folder / "principals.toml").write_text(_PRINCIPALS)
    stranger = folder / "stranger"
    stranger.mkdir()
    Authority("another authority").write(stranger, "ann")
    return folder


def _environment(folder: Path, address: str, replica: str, web: str) -> dict[str, str]:
    variables = {"CAROUSEL_BIND": address, "CAROUSEL_CA": str(folder / "ca.crt")}
    variables |= {"CAROUSEL_PAIR": str(folder / "balancer.pem"), "CAROUSEL_NAME": "localhost"}
    for name in "AB":
        host, _, port = replica.rpartition(":")
        variables |= {f"CAROUSEL_{name}": host, f"CAROUSEL_{name}_GRPC": port}
        variables[f"CAROUSEL_{name}_HTTP"] = web.rpartition(":")[2]
    return os.environ | variables


@pytest.mark.parametrize("name", ["haproxy.cfg", "haproxy-tls.cfg"])
def test_haproxy_accepts_the_file(name: str, folder: Path) -> None:
    """Without a warning about what it says."""
    environment = _environment(folder, "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")
    command = [str(_HAPROXY), "-c", "-f", str(_DEPLOY / name)]
    told = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert "WARNING" not in told.stderr


def test_callers_over_http_reach_the_replicas(bundle: Path, folder: Path) -> None:
    """The page, OpenAI's interface, and a session that any replica continues."""
    address = _free_address()
    with serve(bundle, has_page=True) as server:
        environment = _environment(folder, _free_address(), server.grpc_address, server.http_address)
        port = server.page_url.rstrip("/").rpartition(":")[2]
        environment |= {"CAROUSEL_WEB_BIND": address, "CAROUSEL_A_WEB": port, "CAROUSEL_B_WEB": port}
        files = [part for name in ("haproxy.cfg", "haproxy-web.cfg") for part in ("-f", str(_DEPLOY / name))]
        checked = subprocess.run([str(_HAPROXY), "-c", *files], env=environment, capture_output=True, text=True)
        assert (checked.returncode, "WARNING" in checked.stderr) == (0, False), checked.stderr
        with _balancing(files, environment):
            page = _read_once_up(f"http://{address}/")
            assert b"<title>Carousel</title>" in page
            for position in (3, 6):
                body = json.dumps({"prompt": "ab", "max_tokens": 1, "session_id": "s"}).encode()
                headers = {"content-type": "application/json", "x-session-id": "s"}
                request = urllib.request.Request(f"http://{address}/v1/completions", body, headers)
                with urllib.request.urlopen(request, timeout=30) as answer:
                    assert json.load(answer)["position"] == position


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundle") / "tiny"
    write_bundle(directory)
    return directory


@pytest.fixture(scope="module")
def address(bundle: Path, folder: Path) -> Iterator[str]:
    """The balancer's, with one replica behind it that believes only the balancer."""
    files = {
        "tls_cert": "server.crt",
        "tls_key": "server.key",
        "tls_client_ca": "ca.crt",
        "principals": "principals.toml",
    }
    options = [part for key, name in files.items() for part in ("--set", f"{key}={folder / name}")]
    address = _free_address()
    with serve(bundle, *options, "--set", "owner_metadata=x-user") as server:
        environment = _environment(folder, address, server.grpc_address, server.http_address)
        with _balancing(["-f", str(_DEPLOY / "haproxy-tls.cfg")], environment):
            yield address


def _free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


@contextlib.contextmanager
def _balancing(files: Sequence[str], environment: Mapping[str, str]) -> Iterator[None]:
    balancer = subprocess.Popen([str(_HAPROXY), "-db", *files], env=environment, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        balancer.kill()
        balancer.wait()


def _read_once_up(url: str) -> bytes:
    """Asks until the balancer listens and has seen a replica that is ready."""
    pause = threading.Event()
    for _ in range(200):
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                content: bytes = answer.read()
                return content
        except OSError:
            pause.wait(0.1)
    raise AssertionError(f"nobody answers at {url}")


def _client(
    address: str, folder: Path, certificates: Path | None, user: str = "ann", retries: Retries | None = None
) -> Client:
    """What a caller says of itself in x-user is always ann."""
    pair = (None, None) if certificates is None else (certificates / f"{user}.crt", certificates / f"{user}.key")
    return Client(
        address, tls=Tls(folder / "ca.crt", *pair), metadata=[("x-user", "ann")], timeout_seconds=30, retries=retries
    )


def test_callers_with_certificates_get_through(address: str, folder: Path) -> None:
    """Each one's sessions are its own, whatever it says of itself: its certificate counts."""
    with _client(address, folder, folder) as ann, _client(address, folder, folder, "bob") as bob:
        with ann.session("shared-name", keep=True) as session:
            list(session.generate("The ", max_tokens=3))
        assert ann.get_session("shared-name").position == 7
        with pytest.raises(ServerError) as told:
            bob.get_session("shared-name")
    assert told.value.reason == "SESSION_NOT_FOUND"


@pytest.mark.parametrize("certificates", [None, "stranger"])
def test_others_do_not(address: str, folder: Path, certificates: str | None) -> None:
    """Neither without a certificate nor with one of another authority."""
    own = None if certificates is None else folder / certificates
    with _client(address, folder, own, retries=_ONCE) as client, pytest.raises(ServerError) as told:
        client.get_session("shared-name")
    assert told.value.code.endswith("UNAVAILABLE")
