"""A comparison from text to page in seconds: every training once, equal terms, and the same JSON after a kill."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.training.studies.comparison.conftest import TINY_PLAN, InlineExecutor
from typer.testing import CliRunner

from carousel_training import cli
from carousel_training.errors import StudyInterrupted
from carousel_training.settings import Settings
from carousel_training.studies import compare_command
from carousel_training.studies.comparison.assembly import assemble
from carousel_training.studies.comparison.entries import make_entries
from carousel_training.studies.comparison.figures import Figures
from carousel_training.studies.comparison.page import read_study, write_page
from carousel_training.studies.comparison.study import Study, Workers
from carousel_training.studies.comparison.study_text import load_facts

pytestmark = pytest.mark.slow

TIMES = {"core_seconds", "wall_seconds", "serving", "equal_seconds"}
WORKERS = Workers(InlineExecutor(), 1)


@pytest.fixture(autouse=True)
def short_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carousel_training.studies.comparison.study.TIMING_SECONDS", 0.02)


def make_study(settings: Settings, directory: Path, text_directory: Path, cells: tuple[str, ...] = ("lstm",)) -> Study:
    facts = load_facts(text_directory)
    entries = make_entries(cells, settings, 3000, facts.vocabulary_size, has_twin=True)
    return Study(directory, text_directory, facts.sha256, TINY_PLAN, entries)


def run(study: Study, is_interrupted: Callable[[], bool] = lambda: False) -> tuple[Figures, list[str]]:
    """Returns the figures and the printed lines."""
    said: list[str] = []
    unit_steps = study.estimate(WORKERS).unit_steps
    courses = study.run(WORKERS, unit_steps, said.append, is_interrupted)
    return assemble(study, courses, load_facts(study.text_directory), WORKERS, 3000, None), said


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list | tuple) else value


def test_every_entry_has_equal_terms(comparison_settings: Settings, tmp_path: Path, text_directory: Path) -> None:
    """All cells have equal trials, seeds, tokens and parameters. The twin is not among the cells."""
    figures, said = run(make_study(comparison_settings, tmp_path, text_directory, ("elman", "lstm")))
    assert [cell["cell"] for cell in figures["cells"]] == ["elman", "lstm"]
    assert figures["twin"]["name"] == "lstm-again"
    for cell in [*figures["cells"], figures["twin"]]:
        assert [len(trial["nats"]) for trial in cell["search"]] in ([1, 2], [2, 1])
        assert [run["tokens"] for run in cell["runs"]] == [TINY_PLAN.tokens] * 2
        assert all(0.0 < run["nats"] < 10.0 for run in cell["runs"])
        assert [mark["tokens"] for mark in cell["runs"][0]["marks"]] == figures["plan"]["mark_tokens"] == [128, 256]
        assert cell["num_parameters"] == pytest.approx(3000, rel=0.02)
        assert len(cell["blocks"]) == len(figures["block_tokens"])
    assert sum(figures["block_tokens"]) == 120
    assert said[-1].startswith("[15/15] ")
    assert len(said) == 15


def test_what_is_done_is_not_done_again(comparison_settings: Settings, tmp_path: Path, text_directory: Path) -> None:
    """The second study has exactly the first one's unit and figures, and prints one line."""
    first, _ = run(make_study(comparison_settings, tmp_path, text_directory))
    again, said = run(make_study(comparison_settings, tmp_path, text_directory))
    assert again == first
    assert said == ["10 of 10 trainings were done before"]


def test_an_interrupted_study_goes_on(comparison_settings: Settings, tmp_path: Path, text_directory: Path) -> None:
    """A study that was interrupted has the figures of an uninterrupted one, except times."""
    whole, _ = run(make_study(comparison_settings, tmp_path / "whole", text_directory))
    asked = iter(range(1000))
    study = make_study(comparison_settings, tmp_path / "parts", text_directory)
    with pytest.raises(StudyInterrupted, match="stopped after 4 of 10"):
        run(study, lambda: next(asked) >= 4)
    parts, said = run(make_study(comparison_settings, tmp_path / "parts", text_directory))
    assert said[0] == "4 of 10 trainings were done before"
    assert without_times(parts) == without_times(whole)


def test_another_plan_measures_anew(comparison_settings: Settings, tmp_path: Path, text_directory: Path) -> None:
    """The stored unit is valid only for the same plan, entries, text and workers."""
    study = make_study(comparison_settings, tmp_path, text_directory)
    assert study.estimate(WORKERS) == study.estimate(WORKERS)
    longer = TINY_PLAN.with_options(tokens=4 * 256, seeds=None, trials=None)
    other = Study(tmp_path, text_directory, load_facts(text_directory).sha256, longer, study.entries)
    assert other.estimate(WORKERS).unit_steps == 4 * study.estimate(WORKERS).unit_steps


def test_the_page_follows_from_the_json(comparison_settings: Settings, tmp_path: Path, text_directory: Path) -> None:
    """A page from the figures equals the page from the JSON, and its pictures exist."""
    figures, _ = run(make_study(comparison_settings, tmp_path, text_directory, ("elman", "lstm", "tdnn")))
    write_page(figures, tmp_path / "page")
    write_page(read_study(tmp_path / "page" / "study.json"), tmp_path / "again")
    for name in ("index.md", "study.json"):
        assert (tmp_path / "page" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    text = (tmp_path / "page" / "index.md").read_text()
    for picture in ("tiers.png", "pairs.png", "curves.png", "best_of.png", "lanes.png"):
        assert f"({picture})" in text
        assert (tmp_path / "page" / picture).read_bytes().startswith(b"\x89PNG")
    assert figures["text"]["sha256"] in text


def arguments(out: Path, words_file: Path) -> list[str]:
    """Of a command as small as it can be made, with two trainings side by side."""
    sizes = ["model.embedding_size=8", "batch.num_lanes=2", "batch.segment=16"]
    options = ["--cells", "elman,lstm", "--plan", "tiny", "--jobs", "2", "--parameters", "3000"]
    given = ["compare", "--out", str(out), "--text", str(words_file), *options]
    return given + [part for size in sizes for part in ("--set", size)]


def run_here(out: Path, words_file: Path) -> str:
    result = CliRunner().invoke(cli.app, arguments(out, words_file))
    assert result.exit_code == 0, result.output
    return result.output


@contextmanager
def no_processes(num_workers: int) -> Iterator[Executor]:
    yield InlineExecutor()


def test_a_killed_command_goes_on(tmp_path: Path, words_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed among its trainings and started again: the JSON of a command that ran through, but for times.

    Its processes end with it: the pipe that they share with it reaches its end.
    """
    program = "from tests.training.studies.comparison.tiny_command import main; main()"
    command = [sys.executable, "-c", program, *arguments(tmp_path / "killed", words_file)]
    unbuffered = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=unbuffered) as started:
        assert started.stdout is not None
        assert any(line.startswith("[5/15]") for line in started.stdout)
        started.kill()
        started.stdout.read()
    monkeypatch.setattr(compare_command, "PLANS", {"tiny": TINY_PLAN})
    monkeypatch.setattr(compare_command, "find_serving_speed", lambda: None)
    monkeypatch.setattr(compare_command, "worker_processes", no_processes)
    assert " of 15 trainings were done before" in run_here(tmp_path / "killed", words_file)
    assert " were done before" not in run_here(tmp_path / "whole", words_file)
    found = [json.loads((tmp_path / name / "page" / "study.json").read_text()) for name in ("killed", "whole")]
    assert without_times(found[0]) == without_times(found[1])
    assert json.loads((tmp_path / "killed" / "compare.json").read_text()) == found[0]["cells"]
