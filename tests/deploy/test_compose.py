"""The compose file mounts what its own instructions name, whatever folder compose resolves paths in."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from carousel.settings import Settings

_ROOT = Path(__file__).parents[2]
_FILE = _ROOT / "deploy" / "compose.yaml"


def _services() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load(_FILE.read_text())["services"]
    return services


def _command() -> str:
    """Returns the command in the file's head, as a user would copy it."""
    [line] = [line for line in _FILE.read_text().splitlines() if "docker compose" in line]
    return line.removeprefix("#").strip()


def test_the_command_in_its_head_mounts_the_demos_bundle(tmp_path: Path) -> None:
    """A user types it in the checkout, where the demo leaves its bundle; compose resolves relative paths beside the
    file."""
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\nprintf %s "$CAROUSEL_BUNDLE"\n')
    docker.chmod(0o755)
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    told = subprocess.run(["sh", "-c", _command()], cwd=_ROOT, env=environ, capture_output=True, text=True, check=True)
    assert (_FILE.parent / told.stdout).resolve() == _ROOT / "bundles" / "demo"


def test_everything_else_that_is_mounted_lies_beside_the_file() -> None:
    """The image is built from the checkout."""
    mounts = [mount.split(":")[0] for one in _services().values() for mount in one.get("volumes", ())]
    beside = [mount for mount in mounts if mount.startswith(".")]
    assert beside
    assert all((_FILE.parent / mount).is_file() for mount in beside)
    assert (_FILE.parent / _services()["a"]["build"] / "Dockerfile").is_file()


def test_every_replica_has_the_bundle_and_the_store() -> None:
    """Both have the same, or a session could not move between them; the drain has time to end."""
    one, other = _services()["a"], _services()["b"]
    assert one == other
    assert any("CAROUSEL_BUNDLE" in mount and mount.endswith(":/bundle:ro") for mount in one["volumes"])
    assert int(one["stop_grace_period"].removesuffix("s")) > Settings().drain_seconds


def test_what_watches_is_for_this_machine_alone() -> None:
    """Prometheus and Grafana need no login; their images have a version."""
    for name in ("prometheus", "grafana"):
        service = _services()[name]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert re.fullmatch(r".+:v?\d+\.\d+\.\d+", service["image"])


def test_prometheus_reads_every_replica_and_the_rules() -> None:
    """The rules lie beside the configuration in the container too, and the dashboard where Grafana looks."""
    config = yaml.safe_load((_FILE.parent / "prometheus.yaml").read_text())
    mounts = dict(mount.split(":")[:2] for mount in _services()["prometheus"]["volumes"])
    assert [mounts["./" + rules] for rules in config["rule_files"]] == ["/etc/prometheus/alerts.yaml"]
    [scrape] = config["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": ["a:9090", "b:9090"]}]
    [provider] = yaml.safe_load((_FILE.parent / "grafana" / "dashboards.yaml").read_text())["providers"]
    shown = dict(mount.split(":")[:2] for mount in _services()["grafana"]["volumes"])
    assert Path(shown["./grafana/carousel.json"]).parent == Path(provider["options"]["path"])
