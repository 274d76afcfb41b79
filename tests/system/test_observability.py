"""What an operator can see: metrics that Prometheus accepts, probes, one log line a request, no user text."""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.server_process import ServerProcess, serve

from carousel.client import Client, ServerError

pytestmark = pytest.mark.slow

SECRET = "the horses know my secret"


def _get(server: ServerProcess, path: str) -> str:
    with urllib.request.urlopen(f"http://{server.http_address}{path}", timeout=10) as response:
        return str(response.read().decode())


def _value(page: str, name: str, **labels: str) -> float:
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    found = [s.value for s in samples if s.name == name and labels.items() <= s.labels.items()]
    return sum(found)


def _await_value(server: ServerProcess, name: str, value: float) -> None:
    """Some values are updated once a second; the test's time limit bounds the wait."""
    while _value(_get(server, "/metrics"), name) != value:
        time.sleep(0.05)


def test_metrics_count_what_happened(bundle: Path) -> None:
    """Requests by code, tokens, sessions and refusals change as they should."""
    with serve(bundle) as server, Client(server.grpc_address) as client:
        with client.session() as session:
            list(session.generate("The ", max_tokens=7))
            _await_value(server, "carousel_live_sessions", 1)
        with pytest.raises(ServerError):
            client.get_session("nobody")
        _await_value(server, "carousel_live_sessions", 0)
        page = _get(server, "/metrics")
    assert _value(page, "carousel_generated_tokens_total") == 7
    assert _value(page, "carousel_consumed_tokens_total") == 4 + 7
    assert _value(page, "carousel_requests_total", method="Generate", code="OK") == 1
    assert _value(page, "carousel_requests_total", method="GetSession", code="NOT_FOUND") == 1
    assert _value(page, "carousel_refusals_total", reason="session_not_found") == 1
    assert _value(page, "carousel_sessions_created_total") == 1
    assert _value(page, "carousel_sessions_ended_total", reason="deleted") == 1
    assert _value(page, "carousel_store_up") == 1
    assert _value(page, "carousel_event_loop_lag_seconds_count") > 0
    assert _value(page, "carousel_time_to_first_token_seconds_count") == 1
    assert _value(page, "carousel_time_between_tokens_seconds_count") <= 6  # one a message after the first
    assert _value(page, "carousel_queue_wait_seconds_count") == 1
    assert _value(page, "carousel_model_info", provider="cpu") == 1
    assert SECRET not in page


def test_probes(server: ServerProcess) -> None:
    """Alive and ready while it serves; an unknown path is 404."""
    assert _get(server, "/healthz") == "ok\n"
    assert _get(server, "/readyz") == "ready\n"
    with pytest.raises(urllib.error.HTTPError) as missing:
        _get(server, "/nothing")
    missing.value.close()
    assert missing.value.code == 404


def test_logs_are_json_lines_without_user_text(bundle: Path, tmp_path: Path) -> None:
    """One line a request with method, code and time; neither prompt nor session id nor generated text."""
    log = tmp_path / "log.jsonl"
    with serve(bundle, log=log) as server, Client(server.grpc_address) as client, client.session() as session:
        list(session.generate(SECRET, max_tokens=4))
        session_id = session.get().session_id
        with pytest.raises(ServerError):
            client.get_session("nobody")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    calls = [line["method"] for line in lines if line["event"] == "call"]
    assert calls.count("Generate") == 1
    assert all({"code", "seconds", "timestamp"} <= line.keys() for line in lines if line["event"] == "call")
    (failed,) = (line for line in lines if line.get("code") == "NOT_FOUND")
    assert (failed["reason"], failed["session"]) == ("SESSION_NOT_FOUND", blake2b(b"nobody", digest_size=8).hexdigest())
    assert failed["peer"].startswith("ipv4:127.0.0.1:")
    assert "nobody" not in log.read_text()
    assert SECRET not in log.read_text()
    assert session_id not in log.read_text()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)")
def test_promtool_accepts_the_metrics(server: ServerProcess) -> None:
    """`promtool check metrics` finds no fault in names, help or types."""
    with Client(server.grpc_address) as client:
        list(client.generate("The ", max_tokens=3))
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=_get(server, "/metrics"), capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


@pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed (Debian package prometheus)"
)
def test_prometheus_scrapes_the_server(server: ServerProcess, tmp_path: Path) -> None:
    """A real Prometheus finds the target up and stores our series."""
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: carousel, static_configs: [{{targets: ['{server.http_address}']}}]}}]\n"
    )
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    with subprocess.Popen([*command, "--web.listen-address=127.0.0.1:0"], stderr=subprocess.PIPE, text=True) as process:
        try:
            address = _listening_address(process)
            answer = _query_until_found(address, "carousel_model_info")
        finally:
            process.terminate()
            process.communicate()
    assert answer["metric"]["job"] == "carousel"
    assert answer["value"][1] == "1"


def _listening_address(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if "Listening on" in line:
            return line.split("address=")[1].split()[0].strip('"')
    raise AssertionError("prometheus did not start")


def _query_until_found(address: str, series: str) -> dict[str, Any]:
    """Asks until the first scrape has arrived; the test's time limit bounds it."""
    while True:
        try:
            with urllib.request.urlopen(f"http://{address}/api/v1/query?query={series}", timeout=10) as response:
                found = json.loads(response.read())["data"]["result"]
        except urllib.error.HTTPError as starting:
            starting.close()
            continue
        if found:
            return dict(found[0])
