"""`carousel-train settings` lists all settings, for people and for programs."""

import json

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from carousel_training.cli import app
from carousel_training.settings import Settings
from carousel_training.settings_list import format_all


def _names() -> list[str]:
    """Returns every key of every section in declared order, keys without a section first."""
    names: list[str] = ["seed"]
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += [f"{name}.{key}" for key in field.annotation.model_fields]
    return names


def test_every_setting_is_listed_with_its_default() -> None:
    """The JSON lines hold every default, and setting a default changes nothing."""
    result = CliRunner().invoke(app, ["settings", "--json"])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.output.splitlines()]
    assert [row["name"] for row in rows] == _names()
    assert Settings.load(None, [f"{r['name']}={r['default']}" for r in rows if r["default"] != "none"]) == Settings()
    values = {row["name"]: row["values"] for row in rows}
    assert values["optimizer.kind"] == "adamw, sgd, muon"
    assert values["vocabulary.kind"] == "byte, character, word, bpe"
    assert values["model.cell"].startswith("elman, ")


@pytest.mark.parametrize("width", [200, 80, 40, 1])
def test_no_name_is_ever_cut(width: int) -> None:
    """No terminal is too narrow for a name, and docstrings explain the sections."""
    lines = list(format_all(width))
    listed = [line.split()[0] for line in lines if line.startswith("  ") and "." in line.split()[0]]
    assert set(_names()) - {"seed"} <= set(listed)
    assert "What a token is." in " ".join(line.strip() for line in lines)
    assert not any("`" in line for line in lines)


def test_options_of_a_run_do_not_stand_before_it() -> None:
    """Options of a run in front of the command are refused, since they would have no effect."""
    assert CliRunner().invoke(app, ["--out", "x", "settings"]).exit_code == 2
