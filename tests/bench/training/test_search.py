"""The search draws settings that can be drawn again, and never shows the validation text to a trial."""

import json
from pathlib import Path

import pytest
from bench.training.train import search
from bench.training.train.recipes import MEASURES, RECIPES
from bench.training.train.search import SPACES, plan_trial
from tests.bench.training.test_recipes import small_recipe

from carousel_training.settings import Settings

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("measure", MEASURES)
def test_every_trial_is_a_valid_recipe(measure: str) -> None:
    """Trial 0 is the recipe. The others change some of its settings, always the same for a number."""
    recipe = Settings.load(RECIPES / f"{measure}.toml")
    assert plan_trial(measure, 0, []).overrides == ()
    changed = set()
    for number in range(1, 40):
        trial = plan_trial(measure, number, ["seed=5"])
        assert trial == plan_trial(measure, number, ["seed=5"])
        settings = Settings.load(RECIPES / f"{measure}.toml", trial.overrides)
        assert settings.seed == 5
        assert settings.model_copy(update={"seed": 0}) != recipe
        changed |= {override.split("=")[0] for override in trial.overrides}
    assert changed == {*SPACES[measure], "seed"}


def test_the_tenth_is_cut_from_the_training_text(tmp_path: Path) -> None:
    """A text that is split keeps its own last tenth, the validation text, out of both parts."""
    (tmp_path / "tinyshakespeare").mkdir()
    lines = [f"line {number:05}\n" for number in range(1000)]
    (tmp_path / "tinyshakespeare" / "input.txt").write_text("".join(lines), encoding="utf-8")
    folder = tmp_path / "cut"
    folder.mkdir()
    search.cut_text("tinyshakespeare-300s", tmp_path, folder)
    train, valid = ((folder / f"{part}.txt").read_text(encoding="utf-8") for part in ("train", "valid"))
    assert train + valid == "".join(lines[:900])
    assert len(valid) == pytest.approx(len(train) / 9, rel=0.01)


def test_trials_are_printed_as_they_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each trial is a line with its loss and its settings, and the last line is the best loss."""
    small_recipe(tmp_path)
    monkeypatch.setattr(search, "RECIPES", tmp_path)
    monkeypatch.setattr(search, "minutes", lambda given: 10)
    search.main(["wikitext2-1200s", "--data", str(tmp_path), "--trials", "1", "--set", "model.hidden_size=8"])
    _, trial, best = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (trial["trial"], trial["overrides"]) == (0, ["model.hidden_size=8"])
    assert 0.0 < trial["nats"] < 2.0
    assert trial["tokens"] == 20 * 4 * 48
    assert best["value"] == pytest.approx(trial["nats"], abs=1e-3)
