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
_FULL = {'carousel_limit{name="max_session_bytes"}': "100+0x30", "carousel_session_bytes": "91+0x30"}
_CROWDED = {'carousel_limit{name="max_sessions"}': "100+0x30", "carousel_live_sessions": "91+0x30"}
_BUSY = {
    'carousel_limit{name="max_lanes"}': "64+0x30",
    'carousel_limit{name="max_short_lanes"}': "8+0x30",
    "carousel_busy_lanes": "70+0x30",
}
_LATE = {f'carousel_time_between_tokens_seconds_bucket{{le="{le}"}}': f"0+{n}x30" for le, n in ((0.1, 1), (0.5, 9))}
_LATE |= {'carousel_time_between_tokens_seconds_bucket{le="+Inf"}': "0+9x30"}
_QUIET = {
    "carousel_store_up": "1+0x30",
    'carousel_requests_total{method="Generate",code="OK"}': "0+100x30",
    'carousel_requests_total{method="Generate",code="INVALID_ARGUMENT"}': "0+100x30",
    'carousel_refusals_total{reason="session_not_found"}': "0+100x30",
    'carousel_limit{name="max_lanes"}': "64+0x30",
    'carousel_limit{name="max_short_lanes"}': "8+0x30",
    "carousel_busy_lanes": "60+0x30",
    'carousel_limit{name="max_session_bytes"}': "100+0x30",
    "carousel_session_bytes": "89+0x30",
    'carousel_limit{name="max_sessions"}': "100+0x30",
    "carousel_live_sessions": "89+0x30",
    'carousel_time_between_tokens_seconds_bucket{le="0.1"}': "0+100x30",
    'carousel_time_between_tokens_seconds_bucket{le="+Inf"}': "0+100x30",
    "carousel_step_failures_total": "3+0x30",
    "carousel_task_restarts_total": "3+0x30",
}


def _rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(_FILE.read_text())["groups"]
    return list(group["rules"])


def test_every_metric_that_they_name_is_the_servers() -> None:
    """No metric and no limit in them is misspelled, which would only ever be silent."""
    registry = CollectorRegistry()
    Metrics(registry)
    known = {
        name for family in registry.collect() for name in (family.name, f"{family.name}_total", f"{family.name}_bucket")
    }
    named = {name for rule in _rules() for name in re.findall(r"carousel_\w+", rule["expr"])}
    assert named
    assert named <= known
    assert len(_rules()) == 5


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool here")
@pytest.mark.parametrize(
    ("series", "alert"),
    [
        ({"carousel_store_up": "0+0x30"}, "CarouselStoreDown"),
        ({'carousel_requests_total{code="INTERNAL"}': "0+1x30"}, "CarouselFailing"),
        ({'carousel_step_failures_total{error="RuntimeError"}': "0+1x30"}, "CarouselFailing"),
        ({'carousel_task_restarts_total{task="sweep"}': "0+1x30"}, "CarouselFailing"),
        ({'carousel_refusals_total{reason="max_streams"}': "0+1x30"}, "CarouselRefusing"),
        (_LATE, "CarouselSlow"),
        (_BUSY, "CarouselNearlyFull"),
        (_FULL, "CarouselNearlyFull"),
        (_CROWDED, "CarouselNearlyFull"),
        (_QUIET, None),
        ({}, None),
    ],
)
def test_each_fires_on_what_it_is_for(series: dict[str, str], alert: str | None, tmp_path: Path) -> None:
    """Each fires after half an hour of its trouble, and no other one does; a healthy server fires none."""
    case = {
        "rule_files": [str(_FILE)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": _of_instance(name), "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                        "eval_time": "29m",
                        "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if alert else [],
                    }
                ],
            }
        ],
    }
    file = tmp_path / "case.yaml"
    file.write_text(yaml.safe_dump(case))
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def _of_instance(series: str) -> str:
    name, _, labels = series.partition("{")
    given = labels.removesuffix("}")
    return f'{name}{{job="carousel",instance="a:9090"{"," if given else ""}{given}}}'
