"""The training bench reports missing data, takes figures from evaluations, and runs a recipe's command."""

import json
from pathlib import Path

import pytest
from bench.training.train import recipes
from bench.training.train.recipes import MEASURES, RECIPES

from carousel_training.settings import Settings

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", MEASURES)
def test_a_measures_recipe_has_its_time(name: str) -> None:
    """A measure has a recipe of its name, which is bounded only by the seconds that the name and the figure say."""
    budget = Settings.load(RECIPES / f"{name}.toml").budget
    seconds = name.rsplit("-", 1)[1].removesuffix("s")
    assert MEASURES[name].figure.endswith(f"_{seconds}s")
    assert budget.max_minutes == int(seconds) / 60.0
    assert budget.max_steps is None


def test_without_data_it_says_so_and_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a directory, or with one without the text, there is a reason on stderr, nothing on stdout, no run and no
    failure."""
    monkeypatch.delenv(recipes.DATA_VARIABLE, raising=False)
    recipes.main(["wikitext2-1200s"])
    recipes.main(["tinyshakespeare-300s", "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    told = capsys.readouterr()
    assert told.out == ""
    assert "wikitext2-1200s is not measured: no data directory is named" in told.err
    assert f"there is no file {tmp_path / 'tinyshakespeare' / 'input.txt'}" in told.err
    assert not (tmp_path / "out").exists()


def test_an_unknown_measure_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelled name ends the command and is in the message."""
    with pytest.raises(SystemExit):
        recipes.main(["tinyshakespear"])
    assert "there is no measure tinyshakespear" in capsys.readouterr().err


def test_figures_are_the_best_evaluation_and_the_curve(capsys: pytest.CaptureFixture[str]) -> None:
    """Every evaluation is a line of the curve; the figure is the lowest, beside its target."""
    evaluations = [{"nats": 1.9, "seconds": 60.2}, {"nats": 1.45, "seconds": 200.0}, {"nats": 1.47, "seconds": 300.0}]
    recipes.print_figures(MEASURES["tinyshakespeare-300s"], evaluations)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["unit"] for line in lines[:3]] == ["nats after 60 s", "nats after 200 s", "nats after 300 s"]
    assert lines[3] == {
        "name": "train.tinyshakespeare.nats_300s",
        "value": 1.45,
        "unit": "nats",
        "target": 1.46,
        "holds": True,
    }


def test_a_recipe_is_trained_on_the_text_of_the_data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The command runs with the recipe's settings on the measure's files, and its evaluations come back."""
    recipe = (RECIPES / "wikitext2-1200s.toml").read_text(encoding="utf-8")
    for old, new in (
        ("max_minutes = 20.0", "max_steps = 20"),
        ("every_steps = 2000", "every_steps = 10"),
        ("threads = 2", "threads = 1"),
        ("num_negatives = 3000", "num_negatives = 6"),
        ("num_lanes = 64", "num_lanes = 4"),
        ("hidden_size = 512", "hidden_size = 16"),
    ):
        assert old in recipe
        recipe = recipe.replace(old, new)
    (tmp_path / "wikitext2-1200s.toml").write_text(recipe, encoding="utf-8")
    folder = tmp_path / "wikitext-2"
    folder.mkdir()
    for part in ("train", "valid", "test"):
        (folder / f"{part}.txt").write_text("the wheel turns and the wheel turns again\n" * 60, encoding="utf-8")
    monkeypatch.setattr(recipes, "RECIPES", tmp_path)
    evaluations = recipes.train("wikitext2-1200s", tmp_path, tmp_path / "run")
    assert [evaluation["step"] for evaluation in evaluations] == [10, 20]
    assert evaluations[1]["perplexity"] < evaluations[0]["perplexity"] < 7.0
    told = capfd.readouterr()
    assert told.out == ""
    assert "word vocabulary of 7" in told.err
