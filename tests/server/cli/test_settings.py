"""`carousel settings` lists what can be set so that it can be read at any width, and by programs."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.cli.conftest import Run

from carousel.cli.settings import Setting, format_settings
from carousel.settings import GROUPS, Settings, read_settings

_SETTINGS = (
    Setting("First", "short", "CAROUSEL_SHORT", "1", "a meaning of several words"),
    Setting("First", "a_much_longer_name", "CAROUSEL_A_MUCH_LONGER_NAME", "none", "another"),
    Setting("Second", "last", "CAROUSEL_LAST", "yes", "the last one"),
)


def test_every_setting_is_a_line_in_a_pipe(run: Run) -> None:
    """Name, default and meaning, whole and in the order of their declaration, for grep to find."""
    lines = [line for line in run("settings").out.splitlines() if line.startswith("  ")]
    assert [line.split()[0] for line in lines] == list(Settings.model_fields)
    meanings = [field.description or "" for field in Settings.model_fields.values()]
    assert all(line.endswith(meaning) for line, meaning in zip(lines, meanings, strict=True))


def test_groups_are_headings(run: Run) -> None:
    """Each once, before its first setting; every group begins at a setting that exists."""
    lines = run("settings").out.splitlines()
    assert [line for line in lines[:-1] if line and not line.startswith(" ")] == list(GROUPS.values())
    for name, group in GROUPS.items():
        assert lines[lines.index(group) + 1].split()[0] == name


@pytest.mark.parametrize("width", [None, 100, 80, 50, 20, 1])
def test_no_name_is_ever_cut(width: int | None) -> None:
    """This holds for any width of the terminal; the default is on the same line."""
    text = "\n".join(format_settings(_SETTINGS, width))
    for setting in _SETTINGS:
        assert any(line.split()[:2] == [setting.name, setting.default] for line in text.splitlines())


@given(st.integers(53, 120))
def test_meanings_are_wrapped_into_their_column(width: int) -> None:
    """No line of a setting is longer than a terminal that is wide enough for a column."""
    rows = [line for line in format_settings(_SETTINGS, width) if line.startswith("  ")]
    assert max(map(len, rows)) <= width
    column = rows[0].index("a meaning")
    assert all(row[column - 1] == " " for row in rows)
    words = " ".join(row[column:].strip() for row in rows)
    assert words == "a meaning of several words another the last one"


def test_settings_are_json_lines(run: Run) -> None:
    """Each has its environment variable; a default can be passed back unchanged."""
    rows = [json.loads(line) for line in run("settings", "--json").out.splitlines()]
    assert [row["name"] for row in rows] == list(Settings.model_fields)
    assert rows[0] == {
        "group": "Addresses",
        "name": "listen",
        "environment": "CAROUSEL_LISTEN",
        "default": "127.0.0.1:50051",
        "meaning": "gRPC address; port 0 takes a free one",
    }
    given_back = {row["environment"]: row["default"] for row in rows if row["default"] != "none"}
    assert read_settings(given_back, {}) == Settings()
