"""Several workers on one port, as an operator and as callers see them: they serve, die, drain and count together."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests import bundles
from tests.certificates import Authority
from tests.server.state.conftest import RedisServer
from tests.server_process import ServerProcess, serve

from carousel.client import AsyncClient, Client, Retries, Tls
from carousel.identity.principals import digest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("redis-server") is None, reason="redis-server is not installed (Debian package redis-server)"
    ),
]

PATIENT = Retries(max_attempts=30)
NUM_CONNECTIONS = 4
TOKEN = "crl_" + "x" * 40


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundle")
    bundles.write_bundle(directory)
    return directory


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server.url
    server.kill()


@contextlib.contextmanager
def working(
    bundle: Path, store: str, *options: str, log: Path | None = None, has_page: bool = False
) -> Iterator[ServerProcess]:
    with serve(bundle, "--workers", "2", "--set", f"store={store}", *options, log=log, has_page=has_page) as server:
        yield server


def workers_of(server: ServerProcess) -> list[int]:
    """Their process ids."""
    pid = server.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def get(server: ServerProcess, path: str, **headers: str) -> str:
    request = urllib.request.Request(f"http://{server.http_address}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(answer.read().decode())


def count(server: ServerProcess, name: str) -> float:
    """All series of a counter together."""
    found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", get(server, "/metrics"), re.MULTILINE)
    return sum(map(float, found))


def wait_until_all_are_ready(server: ServerProcess) -> None:
    while not get(server, "/readyz").startswith("ready; 2 of 2"):
        time.sleep(0.05)


def test_calls_of_all_workers_are_counted_together(bundle: Path, store: str) -> None:
    """Connections reach both, a session made through one goes on through the other, and each call counts once."""
    with working(bundle, store) as server:
        for number in range(12):
            with Client(server.grpc_address, timeout_seconds=60) as client:
                with client.session("one", keep=True) if number == 0 else contextlib.nullcontext():
                    pass
                client.open_session("one").feed("ab")
        with Client(server.grpc_address, timeout_seconds=60) as client:
            assert client.get_session("one").position == 24
        busy = re.findall(r'^process_cpu_seconds_total{worker="(\w+)"}', get(server, "/metrics"), re.MULTILINE)
        assert busy == ["0", "1", "supervisor"]
        assert count(server, "carousel_sessions_created_total") == 1
        assert count(server, 'carousel_requests_total{code="OK",method="GetSession"}') == 1
        assert count(server, 'carousel_limit{name="max_lanes"}') == 64
        assert (count(server, "carousel_workers"), count(server, "carousel_ready_workers")) == (2, 2)
        assert get(server, "/healthz") == "ok\n"
        assert get(server, "/readyz") == "ready; 2 of 2 workers are ready\n"


class Load:
    """Callers with sessions, until they are stopped. Each error that the library gives up on is noted."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.errors: list[BaseException] = []
        self.num_turns = 0
        self._stopped = threading.Event()

    def take_turns(self, name: str) -> None:
        client = Client(self.address, timeout_seconds=60, retries=PATIENT, connections=NUM_CONNECTIONS)
        with client, client.session(name) as session:
            position = 0
            while not self._stopped.is_set():
                end = list(session.generate("ab", max_tokens=3))[-1].finished
                assert end is not None
                assert end.position == position + 2 + end.num_generated_tokens
                position = session.predict("c").position
                assert position == end.position + 1
                self.num_turns += 2

    async def take_turns_together(self, name: str) -> None:
        client = AsyncClient(self.address, timeout_seconds=60, retries=PATIENT, connections=NUM_CONNECTIONS)
        async with client, client.session(f"{name}-1") as one, client.session(f"{name}-2") as two:
            while not self._stopped.is_set():
                before = [one.position or 0, two.position or 0]
                await asyncio.gather(one.predict("a"), two.predict("b"))
                assert [one.position, two.position] == [position + 1 for position in before]
                self.num_turns += 2

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        works: list[Callable[[], None]] = [partial(self.take_turns, f"{number}") for number in range(4)]
        works.append(lambda: asyncio.run(self.take_turns_together("shared")))
        threads = [threading.Thread(target=self._note, args=[work]) for work in works]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            for thread in threads:
                thread.join(120)

    def wait_for_turns(self, number: int) -> None:
        since = self.num_turns
        while self.num_turns < since + number and not self.errors:
            time.sleep(0.02)

    def _note(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.errors.append(error)


def test_no_call_fails_when_workers_are_killed(bundle: Path, store: str) -> None:
    """The library's retries reach the others, or the next one. No turn is lost or doubled, and no count ever falls."""
    with working(bundle, store, "--set", "lease_seconds=2") as server:
        load, counts = Load(server.grpc_address), []
        with load.running():
            for _ in range(3):
                load.wait_for_turns(40)
                counts.append(count(server, "carousel_requests_total"))
                os.kill(workers_of(server)[0], signal.SIGKILL)
                counts += [count(server, "carousel_requests_total") for _ in range(5)]
                load.wait_for_turns(40)
                wait_until_all_are_ready(server)
        assert load.errors == []
        assert load.num_turns > 200
        assert counts == sorted(counts)
        assert count(server, "carousel_worker_restarts_total") == 3


def test_a_worker_that_is_told_to_end_drains_and_is_replaced(bundle: Path, store: str) -> None:
    """A signal to one worker is for it alone."""
    with working(bundle, store) as server:
        old = workers_of(server)
        os.kill(old[0], signal.SIGTERM)
        while lives(old[0]) or len(workers_of(server)) < 2:
            time.sleep(0.05)
        wait_until_all_are_ready(server)
        assert set(workers_of(server)) & set(old) == {old[1]}


def ask(server: ServerProcess, path: str, body: Mapping[str, Any] | None = None) -> Any:
    """Over a connection of its own, which any worker may get."""
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.page_url}{path}", content, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def ask_the_other(server: ServerProcess, body: Mapping[str, Any]) -> Any:
    """The port of one that was killed may take a connection until its last thread has ended."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            return ask(server, "v1/completions", body)
        time.sleep(0.02)
    raise AssertionError("nobody answers")


def test_all_workers_serve_the_web(bundle: Path, store: str) -> None:
    """A response goes on wherever the next connection leads, the figures are those of all, and while one worker is away
    the other answers; no count falls, and the server is as old as it was. Many may ask at once, more than there are
    threads."""
    with working(bundle, store, has_page=True) as server:
        with urllib.request.urlopen(server.page_url, timeout=20) as page:
            assert page.read().startswith(b"<!doctype html>")
        body = {"input": "ab", "max_output_tokens": 3}
        ids = [ask(server, "v1/responses", body)]
        for _ in range(11):
            ids.append(ask(server, "v1/responses", body | {"previous_response_id": ids[-1]["id"]}))
        assert [one["position"] for one in ids] == [5 * (index + 1) for index in range(12)]
        assert len({one["session_id"] for one in ids}) == 1
        before = ask(server, "carousel/v1/figures")
        assert (before["generated_tokens"], before["limits"]["max_lanes"]) == (36, 64)
        for worker in workers_of(server):
            os.kill(worker, signal.SIGKILL)
            while lives(worker):
                time.sleep(0.01)
            assert ask_the_other(server, {"prompt": "ab", "max_tokens": 1})["usage"]["completion_tokens"] == 1
            while worker in workers_of(server) or len(workers_of(server)) < 2:
                time.sleep(0.05)
            wait_until_all_are_ready(server)
        with ThreadPoolExecutor(24) as pool:
            many = [*pool.map(lambda _: ask(server, "carousel/v1/figures"), range(48))]
        assert [(one["store_up"], one["limits"]["max_lanes"]) for one in many] == [(1, 64)] * 48
        after = many[-1]
        assert after["start_time"] == before["start_time"]
        assert after["generated_tokens"] >= before["generated_tokens"]


def generate_endlessly(address: str, on_first: threading.Event) -> threading.Thread:
    def run() -> None:
        with contextlib.suppress(Exception), Client(address) as client:
            for _ in client.generate("ab", max_tokens=16_000):
                on_first.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert on_first.wait(30)
    return thread


def test_all_drain_together(bundle: Path, store: str) -> None:
    """A stream that runs gets all its tokens, then everything ends with 0; the port is free."""
    with working(bundle, store) as server, Client(server.grpc_address) as client:
        workers = workers_of(server)
        running = iter(client.generate("ab", max_tokens=3_000, temperature=0))
        next(running)
        server.process.send_signal(signal.SIGTERM)
        end = list(running)[-1].finished
        assert end is not None
        assert end.num_generated_tokens == 3_000
        assert server.process.wait(60) == 0
        assert not any(map(lives, workers))
        with socket.create_server(("127.0.0.1", int(server.grpc_address.rpartition(":")[2]))):
            pass


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_supervisor(bundle: Path, store: str, kill: signal.Signals) -> None:
    """A second signal during a drain ends all at once, and so does a signal that nobody can catch."""
    with working(bundle, store, "--set", "drain_seconds=60") as server:
        thread = generate_endlessly(server.grpc_address, threading.Event())
        workers = workers_of(server)
        if kill == signal.SIGTERM:
            server.process.send_signal(signal.SIGTERM)
            assert server.process.stdout is not None
            assert "A second Ctrl-C or SIGTERM ends" in server.process.stdout.readline()
        server.process.send_signal(kill)
        assert server.process.wait(10) == -kill
        while any(map(lives, workers)):
            time.sleep(0.02)
        thread.join(30)


def _start_and_fail(*arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "carousel", "serve", *arguments, "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stderr, done.stdout


@pytest.mark.parametrize("wrong", ["bundle", "port", "web", "store"])
def test_what_cannot_start_says_why_once(bundle: Path, store: str, tmp_path: Path, wrong: str) -> None:
    """With exit code 2, whether the supervisor or a worker finds it."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1] if wrong == 'port' else 0}"
        web = f"127.0.0.1:{other.getsockname()[1] if wrong == 'web' else 0}"
        served = str(tmp_path if wrong == "bundle" else bundle)
        options = [
            "--set",
            f"store={'memory' if wrong == 'store' else store}",
            "--http",
            "127.0.0.1:0",
            "--openai",
            web,
        ]
        code, errors, out = _start_and_fail(served, "--listen", address, *options)
    assert (code, out) == (2, "")
    lines = [line for line in errors.splitlines() if line.startswith("carousel serve: ")]
    expected = {
        "bundle": str(tmp_path),
        "port": f"listen: cannot bind {address}",
        "web": f"openai_listen: cannot bind {web}",
        "store": "in memory; set store=redis",
    }
    assert len(lines) == 1
    assert expected[wrong] in lines[0]
    assert "Traceback" not in errors


def test_the_one_address_asks_who_calls(bundle: Path, store: str, tmp_path: Path) -> None:
    """As that of a single server does: /metrics needs the scope, the probes need nothing; and on IPv6 too."""
    principals = tmp_path / "principals.toml"
    principals.write_text(f'[[principal]]\nname = "p"\ntokens = ["{digest(TOKEN)}"]\nscopes = ["metrics"]\n')
    with working(bundle, store, "--listen", "[::1]:0", "--set", f"principals={principals}") as server:
        assert server.grpc_address.startswith("[::1]:")
        assert get(server, "/healthz") == "ok\n"
        with pytest.raises(urllib.error.HTTPError) as refused:
            get(server, "/metrics")
        refused.value.close()
        assert refused.value.code == 401
        page = get(server, "/metrics", authorization=f"Bearer {TOKEN}")
        assert 'carousel_refusals_total{reason="unauthenticated"} 1.0' in page


def test_the_one_address_is_encrypted_as_a_single_servers(bundle: Path, store: str, tmp_path: Path) -> None:
    """So are the workers; a new certificate counts for all of them, without a restart."""
    authority = Authority()
    ca = authority.write_own(tmp_path)
    cert, key = authority.write(tmp_path)
    options = ["--set", f"tls_cert={cert}", "--set", f"tls_key={key}"]
    with working(bundle, store, *options) as server:
        context = ssl.create_default_context(cadata=authority.pem.decode())

        def fetch(path: str) -> str:
            with urllib.request.urlopen(f"https://{server.http_address}{path}", context=context, timeout=20) as answer:
                return str(answer.read().decode())

        assert fetch("/readyz").startswith("ready; 2 of 2")
        with Client(server.grpc_address, tls=Tls(ca=ca), timeout_seconds=60, connections=NUM_CONNECTIONS) as client:
            for _ in range(NUM_CONNECTIONS):
                assert client.is_serving()
        authority.write(tmp_path, days=3)
        while 'carousel_files_read_total{outcome="taken",setting="tls_cert"} 3.0' not in fetch("/metrics"):
            time.sleep(0.1)
        with pytest.raises(OSError, match="."):
            get(server, "/readyz")
