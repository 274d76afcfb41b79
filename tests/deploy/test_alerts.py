"""The alerts fire when they should and are silent otherwise, by the metrics that the server has."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from carousel.metrics import Metrics

_FILE = Path(__file__).parents[2] / "deploy" / "alerts.yaml"
_CASES = Path(__file__).with_name("alerts_test.yaml")

with_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool here")


def _rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(_FILE.read_text())["groups"] for rule in group["rules"]]


def _alerts() -> list[str]:
    return [rule["alert"] for rule in _rules() if "alert" in rule]


def test_every_metric_that_they_name_is_the_servers() -> None:
    """No metric and no limit in them is misspelled, which would only ever be silent."""
    registry = CollectorRegistry()
    Metrics(registry)
    endings = ("", "_total", "_bucket", "_count")
    known = {family.name + ending for family in registry.collect() for ending in endings}
    named = {name for rule in _rules() for name in re.findall(r"carousel_\w+", rule["expr"])}
    assert named
    assert named <= known
    assert len(_alerts()) == len(set(_alerts())) == 13


def test_every_burn_that_they_name_is_recorded() -> None:
    """For each objective."""
    recorded = [rule["record"] for rule in _rules() if "record" in rule]
    named = {name for rule in _rules() for name in re.findall(r"carousel:[\w:]+", rule["expr"])}
    assert named == set(recorded)
    assert all(recorded.count(name) == 3 for name in named)


def test_each_has_a_case_in_which_it_fires_and_one_in_which_none_does() -> None:
    """As far as the file of cases says; promtool proves it below."""
    checks = [check for case in yaml.safe_load(_CASES.read_text())["tests"] for check in case["promql_expr_test"]]
    firing = {
        name for check in checks for one in check["exp_samples"] for name in re.findall(r'e="(\w+)"', one["labels"])
    }
    assert set(_alerts()) <= firing
    assert any(not check["exp_samples"] for check in checks)


@with_promtool
def test_promtool_accepts_them() -> None:
    """As rules, and as what the configuration of Prometheus names."""
    for kind, file in (("rules", _FILE), ("config", _FILE.with_name("prometheus.yaml"))):
        checked = subprocess.run(["promtool", "check", kind, str(file)], capture_output=True, text=True, timeout=60)
        assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.slow
@with_promtool
def test_each_fires_on_what_it_is_for() -> None:
    """No other one does, and a healthy server fires none: the cases are in alerts_test.yaml."""
    done = subprocess.run(["promtool", "test", "rules", str(_CASES)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


@with_promtool
def test_a_changed_bound_fails_the_cases(tmp_path: Path) -> None:
    """The cases see more than that a rule exists."""
    changed = _FILE.read_text().replace("carousel_store_up == 0", "carousel_store_up == 1")
    (tmp_path / "alerts.yaml").write_text(changed)
    cases = yaml.safe_load(_CASES.read_text())
    of_store = [case for case in cases["tests"] if case["name"] == "the store is down"]
    given = cases | {"rule_files": [str(tmp_path / "alerts.yaml")], "tests": of_store}
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump(given))
    command = ["promtool", "test", "rules", str(tmp_path / "cases.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert 'exp: {alertname="CarouselStoreDown"}' in done.stdout + done.stderr
