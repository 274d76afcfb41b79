"""The table of error reasons is the server's own, and what the pages point at is there."""

import re
from pathlib import Path

import pytest
from google.rpc import code_pb2

from carousel.rpc.errors import CODES
from carousel.settings import Settings

_DOCS = Path(__file__).parents[2] / "docs"


def _rows() -> dict[str, str]:
    """Reason and code, as docs/client.md has them."""
    return dict(re.findall(r"^\| `([A-Z_]+)` \| ([A-Z_]+) \|", (_DOCS / "client.md").read_text(), re.MULTILINE))


def test_every_reason_stands_there_with_its_code() -> None:
    """No more and no fewer than the server can send, and the one for what nobody expected."""
    known = {error.reason: code_pb2.Code.Name(code) for error, code in CODES.items()}
    assert _rows() == known | {"INTERNAL": "INTERNAL"}


@pytest.mark.parametrize("page", ["client.md", "operations.md"])
def test_links_lead_somewhere(page: str) -> None:
    """To files of this repository, and to headings that they have."""
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", (_DOCS / page).read_text())
    assert links
    for link in links:
        target, _, heading = link.partition("#")
        file = (_DOCS / target).resolve() if target else _DOCS / page
        assert file.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}, link


def test_the_five_alerts_are_explained() -> None:
    """Each by its name."""
    alerts = re.findall(r"alert: (\w+)", (_DOCS.parent / "deploy" / "alerts.yaml").read_text())
    page = (_DOCS / "operations.md").read_text()
    assert len(alerts) == 5
    assert all(f"| `{alert}` |" in page for alert in alerts)


def test_every_setting_that_is_named_is_one() -> None:
    """In either page: names that look like limits are settings, metrics or parts of the wire."""
    for page in ("client.md", "operations.md"):
        named = re.findall(r"`((?:max|retained|session|seal|drain|num)_\w+?)(?:=\w+)?`", (_DOCS / page).read_text())
        assert set(named) <= set(Settings.model_fields), set(named) - set(Settings.model_fields)
