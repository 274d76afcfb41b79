"""Every expression of the dashboard and of the rules finds something in a real Prometheus beside a real server."""

import contextlib
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.bundles import write_bundle
from tests.certificates import Authority, replace
from tests.server_process import serve

from carousel.client import Client, ServerError, Tls
from carousel.identity.principals import digest

_DEPLOY = Path(__file__).parents[2] / "deploy"
_TOKEN = "crl_" + "x" * 43
_PRINCIPALS = f"""
[[principal]]
name = "everybody"
tokens = ["{digest(_TOKEN)}"]
scopes = ["admin"]
"""
_SECONDS = 60

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed (Debian package)"),
]


def _dashboard() -> list[str]:
    """With Grafana's variables replaced."""
    panels = json.loads((_DEPLOY / "grafana" / "carousel.json").read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return [one.replace("$__rate_interval", "30s").replace("$instance", ".*") for one in found]


def _rules() -> list[str]:
    groups = yaml.safe_load((_DEPLOY / "alerts.yaml").read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address; the server that it reads has some load until the tests end."""
    folder = tmp_path_factory.mktemp("dashboard")
    write_bundle(folder / "tiny")
    authority = Authority()
    ca = authority.write_own(folder)
    authority.write(folder, "server", days=30)
    replace(folder / "principals.toml", _PRINCIPALS.encode())
    files = {"tls_cert": "server.crt", "tls_key": "server.key", "principals": "principals.toml"}
    options = [part for key, name in files.items() for part in ("--set", f"{key}={folder / name}")]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serve(folder / "tiny", *options, "--set", "plaintext=http"))
        config = folder / "prometheus.yml"
        config.write_text(_config(server.http_address))
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
        process = subprocess.Popen(
            [*command, "--web.listen-address=127.0.0.1:0"], stderr=subprocess.PIPE, text=True, bufsize=1
        )
        stack.callback(process.communicate)
        stack.callback(process.terminate)
        address = _listening_address(process)
        stack.enter_context(_load(server.grpc_address, ca))
        replace(folder / "principals.toml", b"bad")
        yield address


def _config(target: str) -> str:
    scrape = {
        "job_name": "carousel",
        "authorization": {"credentials": _TOKEN},
        "static_configs": [{"targets": [target]}],
    }
    times = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    rules = [str(_DEPLOY / "alerts.yaml")]
    return str(yaml.safe_dump({"global": times, "rule_files": rules, "scrape_configs": [scrape]}))


def _listening_address(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if "Listening on" in line:
            return line.split("address=")[1].split()[0].strip('"')
    raise AssertionError("prometheus did not start")


@contextlib.contextmanager
def _load(address: str, ca: Path) -> Iterator[None]:
    """Calls all the time: sessions that begin and end, and callers that are refused."""
    stop = threading.Event()

    def call() -> None:
        with Client(address, tls=Tls(ca), token=_TOKEN) as client, Client(address, tls=Tls(ca)) as stranger:
            while not stop.wait(0.2):
                with client.session() as session:
                    list(session.generate("The ", max_tokens=7))
                with contextlib.suppress(ServerError):
                    stranger.get_session("nobody")

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _query(address: str, expression: str) -> list[dict[str, Any]]:
    """The series that have a number. Raises ValueError where Prometheus refuses the expression."""
    url = f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            found = json.loads(response.read())["data"]["result"]
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 503:  # it is starting
                return []
            raise ValueError(error.read().decode()) from error
    return [one for one in found if one["value"][1] != "NaN"]


def _empty(address: str, expressions: list[str], seconds: float) -> list[str]:
    """Asks again for those that find nothing, until the time is over; returns these."""
    end = time.monotonic() + seconds
    while (expressions := [one for one in expressions if not _query(address, one)]) and time.monotonic() < end:
        time.sleep(0.5)
    return expressions


def test_every_expression_of_the_dashboard_finds_something(prometheus: str) -> None:
    assert len(_dashboard()) > 50
    assert _empty(prometheus, _dashboard(), _SECONDS) == []


def test_a_misspelled_one_is_found(prometheus: str) -> None:
    """Both in a metric's name and in a label's."""
    good = 'rate(carousel_consumed_tokens_total{instance=~".*"}[30s])'
    typos = [good.replace("tokens", "token"), good.replace('instance=~".*"', 'instanse=~".+"')]
    assert _empty(prometheus, [good, *typos], _SECONDS / 10) == typos


def test_every_rule_is_evaluated(prometheus: str) -> None:
    """Prometheus accepts each; what is not only there after a failure has series, and burns have values."""
    for expression in _rules():
        _query(prometheus, expression)
    named = {name for one in _rules() for name in re.findall(r"(?:carousel|process)[_:][\w:]+", one)}
    after_failures = {"carousel_step_failures_total", "carousel_task_restarts_total"}
    assert _empty(prometheus, sorted(named - after_failures), _SECONDS) == []
