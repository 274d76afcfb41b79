"""The training bench says what it lacks without data, takes figures from last evaluations, and trains every seed."""

import json
from pathlib import Path

import pytest
from bench.training.train import recipes
from bench.training.train.recipes import MEASURES, RECIPES

from carousel_training.settings import Settings

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", MEASURES)
def test_a_measures_recipe_has_its_time(name: str) -> None:
    """A measure has a recipe of its name, bounded by the seconds that the name and the figure say, and only by them."""
    budget = Settings.load(RECIPES / f"{name}.toml").budget
    seconds = name.rsplit("-", 1)[1].removesuffix("s")
    assert MEASURES[name].figure.endswith(f"_{seconds}s")
    assert budget.max_minutes == int(seconds) / 60.0
    assert budget.max_steps is None


def test_without_data_it_says_so_and_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No directory named, or one without the text: a reason on stderr, nothing on stdout, no run, no failure."""
    monkeypatch.delenv(recipes.DATA_VARIABLE, raising=False)
    recipes.main(["wikitext2-1200s"])
    recipes.main(["tinyshakespeare-300s", "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    told = capsys.readouterr()
    assert told.out == ""
    assert "wikitext2-1200s is not measured: no data directory is named" in told.err
    assert f"there is no file {tmp_path / 'tinyshakespeare' / 'input.txt'}" in told.err
    assert not (tmp_path / "out").exists()


def test_an_unknown_measure_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt name ends the command and is named."""
    with pytest.raises(SystemExit):
        recipes.main(["tinyshakespear"])
    assert "there is no measure tinyshakespear" in capsys.readouterr().err


def test_a_figure_is_the_mean_of_the_seeds_last_evaluations(capsys: pytest.CaptureFixture[str]) -> None:
    """The first seed's evaluations are the curve. No evaluation is chosen: a better one on the way does not count."""
    runs = [
        [
            {"nats": 1.9, "seconds": 60.2},
            {"nats": 1.36, "seconds": 200.0},
            {"nats": 1.44, "seconds": 300.0, "tokens": 7},
        ],
        [{"nats": 1.3, "seconds": 60.2}, {"nats": 1.38, "seconds": 300.0, "tokens": 8}],
    ]
    recipes.print_figures(MEASURES["tinyshakespeare-300s"], runs)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["unit"] for line in lines[:3]] == ["nats after 60 s", "nats after 200 s", "nats after 300 s"]
    assert [(line["name"], line["value"], line["unit"]) for line in lines[3:5]] == [
        ("train.tinyshakespeare.nats_300s.seed_0", 1.44, "nats, 7 tokens"),
        ("train.tinyshakespeare.nats_300s.seed_1", 1.38, "nats, 8 tokens"),
    ]
    expected = {"value": 1.41, "unit": "nats", "target": 1.42, "holds": True}
    assert lines[5] == {"name": "train.tinyshakespeare.nats_300s", **expected}


def small_recipe(folder: Path) -> None:
    """Writes a recipe of a few steps, and a text of a few words."""
    recipe = (RECIPES / "wikitext2-1200s.toml").read_text(encoding="utf-8")
    changes = {
        "max_minutes": "max_steps = 20",
        "every_steps": "every_steps = 10",
        "num_negatives": "num_negatives = 6",
        "num_lanes": "num_lanes = 4",
        "hidden_size": "hidden_size = 16",
        "embedding_size": "embedding_size = 16",
    }
    lines = [changes.get(line.split(" ")[0], line) for line in recipe.splitlines()]
    assert set(changes.values()) <= set(lines)
    (folder / "wikitext2-1200s.toml").write_text("\n".join(lines), encoding="utf-8")
    text = folder / "wikitext-2"
    text.mkdir()
    for part in ("train", "valid", "test"):
        (text / f"{part}.txt").write_text("the wheel turns and the wheel turns again\n" * 60, encoding="utf-8")


def test_a_recipe_is_trained_with_every_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each seed's run has the recipe's settings on the measure's text, and its evaluations come back in order."""
    small_recipe(tmp_path)
    monkeypatch.setattr(recipes, "RECIPES", tmp_path)
    runs = recipes.train_seeds("wikitext2-1200s", tmp_path, tmp_path / "runs", 2, 2)
    assert [[evaluation["step"] for evaluation in evaluations] for evaluations in runs] == [[10, 20], [10, 20]]
    assert runs[0][1]["perplexity"] < runs[0][0]["perplexity"] < 7.0
    assert runs[0][1]["nats"] != runs[1][1]["nats"]
    assert (tmp_path / "runs" / "seed-1" / "loss.png").exists()
