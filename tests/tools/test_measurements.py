"""The page of measurements is what the command writes, and it hides nothing that missed its target."""

import json
from pathlib import Path
from typing import Any

import pytest
from tools.measurements import make_page, read_measured

from tools import measurements

_ROOT = Path(__file__).parents[2]
_MACHINE = {"machine": {"cpu": "a processor", "cores": 2, "memory_gib": 8, "system": "Linux", "python": "3.11"}}


def _figure(name: str, value: float, target: float | None = None, holds: bool | None = None) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": "ratio", "target": target, "holds": holds}


def _write(folder: Path, *lines: dict[str, Any], name: str = "2026-01-02-some-machine.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _page(folder: Path, *lines: dict[str, Any]) -> str:
    return make_page([read_measured(_write(folder, *lines))])


def test_the_page_is_what_the_command_writes() -> None:
    """The committed page has every committed file's figures, and nothing else."""
    files = sorted((_ROOT / measurements.FOLDER).glob("*.jsonl"), reverse=True)
    assert files
    assert (_ROOT / measurements.PAGE).read_text() == make_page(map(read_measured, files))


@pytest.mark.parametrize(
    ("value", "target", "holds", "said"),
    [
        (0.5, 0.4, True, "at least 0.4"),
        (0.3, 0.4, False, "at least 0.4, **missed**"),
        (0.3, 0.4, True, "at most 0.4"),
        (0.5, 0.4, False, "at most 0.4, **missed**"),
        (0.4, 0.4, True, "0.4"),
    ],
)
def test_a_figure_that_misses_its_target_says_so(
    tmp_path: Path, value: float, target: float, holds: bool, said: str
) -> None:
    """Its row has the target and its direction, and `missed` where the figure misses it."""
    page = _page(tmp_path, _MACHINE, _figure("predict.small", value, target, holds))
    assert f"| `predict.small` | {value} | ratio | {said} |" in page
    assert f"1 have a target; {'none' if holds else 1} of them missed it." in page


def test_a_figure_without_a_target_says_nothing(tmp_path: Path) -> None:
    """Its last cell is empty, and it does not count among those that have a target."""
    page = _page(tmp_path, _MACHINE, _figure("predict.small.messages", 6587.4))
    assert "| `predict.small.messages` | 6,587.4 | ratio |  |" in page
    assert "0 have a target" in page


def test_benches_have_tables_of_their_own(tmp_path: Path) -> None:
    """Figures are under the bench that their name begins with, in the order in which they were printed."""
    page = _page(tmp_path, _MACHINE, _figure("b.one", 1), _figure("b.two", 2), _MACHINE, _figure("a.one", 3))
    assert page.index("**b**") < page.index("`b.one`") < page.index("`b.two`") < page.index("**a**")
    assert page.count("| figure | value |") == 2


def test_the_machine_is_described(tmp_path: Path) -> None:
    """The section is named after the file and describes the machine."""
    page = _page(tmp_path, _MACHINE, _figure("a.one", 3))
    assert "## 2026-01-02, some machine" in page
    assert "a processor, 2 cores, 8 GiB of memory; system Linux, python 3.11." in page


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "nothing was measured"),
        ([_figure("a.one", 1)], ":1: the first line describes the machine"),
        ([_MACHINE, {"machine": {"cpu": "another"}}], ":2: another machine"),
        ([_MACHINE, _figure("a.one", 1), _figure("a.one", 2)], ":3: a.one stands there twice"),
    ],
)
def test_lines_that_cannot_be_trusted_are_refused(tmp_path: Path, lines: list[dict[str, Any]], why: str) -> None:
    """The error names the file and the line."""
    with pytest.raises(ValueError, match=f"2026-01-02-some-machine.jsonl.*{why}"):
        read_measured(_write(tmp_path, *lines))


def test_a_file_without_a_date_is_refused(tmp_path: Path) -> None:
    """A figure without its day is no record."""
    with pytest.raises(ValueError, match=r"named YYYY-MM-DD-MACHINE\.jsonl"):
        read_measured(_write(tmp_path, _MACHINE, name="some-machine.jsonl"))
