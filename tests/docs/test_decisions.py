"""Records of decisions are numbered, dated and in the index; a superseded one names its successor."""

import re
from pathlib import Path

import pytest

_FOLDER = Path(__file__).parents[2] / "docs" / "decisions"
_RECORDS = sorted(path for path in _FOLDER.glob("*.md") if path.name != "index.md")
_DAY = r"\d{4}-\d\d-\d\d"
_STATUS = re.compile(
    r"Status: (?:accepted|superseded by \[(?P<by>\d{3})\]\((?P<file>[\w-]+\.md)\))"
    r"(?:, supersedes \[\d{3}\]\([\w-]+\.md\))?"
    rf" · Date: (?P<date>{_DAY}(?:, (?:last changed|withdrawn) {_DAY})?)"
)


def test_numbers_follow_each_other() -> None:
    """No record is missing, and no number stands twice."""
    assert [path.name[:3] for path in _RECORDS] == [f"{number:03}" for number in range(1, len(_RECORDS) + 1)]


@pytest.mark.parametrize("record", _RECORDS, ids=lambda path: path.stem)
def test_a_record_has_its_parts(record: Path) -> None:
    """The parts are title with the number, status, date, context, choice and consequences, in this order."""
    text = record.read_text()
    lines = text.splitlines()
    assert lines[0].startswith(f"# {record.name[:3]}. ")
    found = _STATUS.fullmatch(lines[2])
    assert found is not None, lines[2]
    if found["by"]:
        assert found["file"].startswith(found["by"])
    parts = re.findall(r"^## (\w+)", text, re.MULTILINE)
    assert parts[:3] == ["Context", "Choice", "Consequences"]


def test_the_index_has_every_record_as_it_is() -> None:
    """Each record has one row, in order, with its title, status and date."""
    rows = re.findall(r"^\| \[(.+)\]\((.+)\) \| (.+) \| (.+) \|$", (_FOLDER / "index.md").read_text(), re.MULTILINE)
    expected = []
    for record in _RECORDS:
        lines = record.read_text().splitlines()
        found = _STATUS.fullmatch(lines[2])
        assert found is not None, record.name
        status = f"superseded by {found['by']}" if found["by"] else "accepted"
        expected.append((lines[0].removeprefix("# "), record.name, status, found["date"]))
    assert rows == expected
