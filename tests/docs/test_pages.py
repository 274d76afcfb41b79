"""The tables of error reasons and metrics are the server's own, and settings that pages name exist."""

import re
from pathlib import Path

from google.rpc import code_pb2
from prometheus_client import CollectorRegistry

from carousel.identity.principals import QuotaTable
from carousel.metrics import Metrics
from carousel.rpc.errors import CODES
from carousel.settings import Settings

_DOCS = Path(__file__).parents[2] / "docs"


def _rows() -> dict[str, str]:
    """Returns reason and code, as docs/client.md has them."""
    return dict(re.findall(r"^\| `([A-Z_]+)` \| ([A-Z_]+) \|", (_DOCS / "client.md").read_text(), re.MULTILINE))


def test_every_reason_stands_there_with_its_code() -> None:
    """The page has exactly the reasons that the server can send, with the one for unexpected errors."""
    known = {error.reason: code_pb2.Code.Name(code) for error, code in CODES.items()}
    assert _rows() == known | {"INTERNAL": "INTERNAL"}


def test_the_thirteen_alerts_are_explained() -> None:
    """Each has its name on the page."""
    alerts = re.findall(r"alert: (\w+)", (_DOCS.parent / "deploy" / "alerts.yaml").read_text())
    page = (_DOCS / "operations.md").read_text()
    assert len(alerts) == 13
    assert all(f"| `{alert}` |" in page for alert in alerts)


def test_every_setting_that_is_named_is_one() -> None:
    """In either page, names that look like limits are settings, or keys of a quota."""
    known = set(Settings.model_fields) | set(QuotaTable.model_fields)
    for page in ("client.md", "operations.md"):
        named = re.findall(r"`((?:max|retained|session|seal|drain|num)_\w+?)(?:=\w+)?`", (_DOCS / page).read_text())
        assert set(named) <= known, set(named) - known


def test_every_metric_has_its_row_with_its_labels() -> None:
    """The page has exactly the server's metrics, under the names that Prometheus sees."""
    registry = CollectorRegistry()
    metrics = vars(Metrics(registry)).values()
    known = set()
    for metric in metrics:
        if metric is not registry:
            [family] = metric.describe()
            name = f"{family.name}_total" if family.type == "counter" else family.name
            known.add((name, ", ".join(metric._labelnames) or "-"))
    page = (_DOCS / "operations.md").read_text()
    assert set(re.findall(r"^\| `(carousel_\w+)` \| ([\w, -]+) \|", page, re.MULTILINE)) == known


def test_every_test_that_security_names_is_there() -> None:
    """Each row of the table names what shows it."""
    page = (_DOCS / "security.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("|") and "---" not in line][1:]
    named = [re.findall(r"`((?:tests|trials)/[\w/]+\.py)`", row) for row in rows]
    assert all(named)
    assert all((_DOCS.parent / path).is_file() for paths in named for path in paths)
