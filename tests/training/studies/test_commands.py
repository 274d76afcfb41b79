"""The commands of the studies write a picture and figures, and refuse bad input in one sentence."""

import json
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from tests.training.studies.comparison.conftest import InlineExecutor
from typer.testing import CliRunner

from carousel_training.cli import EXIT_BAD_INPUT, app
from carousel_training.studies.comparison.serving import SERVING_GROUP

TINY = ["--set", "compute.threads=1", "--set", "batch.num_lanes=2", "--set", "batch.segment=16"]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def test_help_shows_training_and_studies() -> None:
    """The options of a run and the four commands stand on one page."""
    text = run("--help")
    for word in ("--out", "--resume", "compare", "gradients", "recall", "inspect"):
        assert word in text


@contextmanager
def no_processes(num_workers: int) -> Iterator[Executor]:
    yield InlineExecutor()


@pytest.fixture
def quick_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings in this process, speeds from a moment."""
    monkeypatch.setattr("carousel_export.serving_speed.SECONDS", 0.02)
    monkeypatch.setattr("carousel_training.studies.comparison.study.TIMING_SECONDS", 0.02)
    monkeypatch.setattr("carousel_training.studies.compare_command.worker_processes", no_processes)


def compare_arguments(out: Path, text: Path) -> list[str]:
    options = ["--cells", "elman,lstm", "--tokens", "200", "--seeds", "1", "--rates", "2", "--parameters", "6000"]
    return ["compare", "--out", str(out), "--text", str(text), *options, "--set", "model.embedding_size=8", *TINY]


@pytest.mark.usefixtures("quick_compare")
def test_compare_leaves_figures_and_goes_on(tmp_path: Path, verse_file: Path) -> None:
    """The second call trains nothing; serving speed comes from the exporter, which is installed here."""
    arguments = compare_arguments(tmp_path / "c", verse_file)
    text = run(*arguments)
    assert "[6/6] lstm/seed-0: " in text
    assert "estimate: " in text
    assert "NOT de-duplicated" in text
    figures = json.loads((tmp_path / "c" / "compare.json").read_text())
    assert [figure["cell"] for figure in figures] == ["elman", "lstm"]
    assert [len(figure["runs"]) for figure in figures] == [1, 1]
    assert all(0.0 < figure["runs"][0]["nats"] < 10.0 for figure in figures)
    assert all(set(figure["serving"]) == {"1", "64"} for figure in figures)
    assert (tmp_path / "c" / "compare.png").read_bytes().startswith(b"\x89PNG")
    again = run(*arguments)
    assert "6 of 6 trainings were done before" in again
    assert "[6/6]" not in again
    assert json.loads((tmp_path / "c" / "compare.json").read_text()) == figures


@pytest.mark.usefixtures("quick_compare")
def test_a_page_is_drawn_anew_from_its_json(tmp_path: Path, verse_file: Path) -> None:
    """Without any training, text or directory of runs."""
    run(*compare_arguments(tmp_path / "c", verse_file), "--page", str(tmp_path / "page"))
    page = (tmp_path / "page" / "index.md").read_text()
    (tmp_path / "c").rename(tmp_path / "moved")
    run("compare", "--redraw", str(tmp_path / "page" / "study.json"), "--page", str(tmp_path / "other"))
    assert (tmp_path / "other" / "index.md").read_text() == page
    assert not (tmp_path / "c").exists()


def test_gradients_leave_figures(tmp_path: Path, verse_file: Path) -> None:
    """The figures hold curves of every chosen cell, and of the two initial values."""
    out = tmp_path / "g"
    run(
        *("gradients", "--out", str(out), "--text", str(verse_file), "--cells", "gru,tdnn", "--distance", "12"),
        *("--steps", "2", "--set", "model.hidden_size=8", *TINY),
    )
    figures = json.loads((out / "gradients.json").read_text())
    assert [figure["cell"] for figure in figures["cells"]] == ["gru", "tdnn"]
    assert len(figures["cells"][0]["fresh"]["hidden_K"]) == 13
    assert set(figures["lstm_forget_bias"]) == {"0.0", "1.0", "2.0"}
    assert (out / "gradients.png").exists()


def test_recall_leaves_figures(tmp_path: Path) -> None:
    """Accuracy by task, cell and gap."""
    out = tmp_path / "r"
    run(
        *("recall", "--out", str(out), "--cells", "elman", "--tasks", "adding", "--gaps", "1,2"),
        *("--max-steps", "3", "--hidden-size", "4"),
    )
    (figure,) = json.loads((out / "recall.json").read_text())
    assert (figure["task"], figure["cell"], set(figure["accuracy"])) == ("adding", "elman", {"1", "2"})
    assert (out / "recall.png").exists()


def test_inspect_reads_a_run(tmp_path: Path, verse_file: Path) -> None:
    """Picture and figures lie beside the checkpoint by default."""
    out = tmp_path / "run"
    run(
        *("--out", str(out), "--text", str(verse_file), "--max-steps", "2", "--set", "vocabulary.kind=character"),
        *("--set", "model.hidden_size=8", "--set", "model.embedding_size=8", *TINY),
    )
    run("inspect", "the wheel turns", "--checkpoint", str(out), "--top", "3")
    figures = json.loads((out / "inspect.json").read_text())
    assert "".join(figures["tokens"]) == "the wheel turns"
    assert (out / "inspect.png").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["compare", "--cells", "lstmm"], "unknown cell lstmm"),
        (["compare", "--plan", "week"], "unknown plan week; the plans are: hour, night"),
        (["compare", "--redraw", "absent.json"], "cannot read absent.json"),
        (["compare", "--redraw", "pyproject.toml"], "pyproject.toml is not a comparison's JSON"),
        (["compare", "--text", "absent.txt"], "cannot read absent.txt"),
        (["compare", "--parameters", "10"], "no hidden size gives"),
        (["compare", "--set", "model.cell=gru"], "model.cell is not for --set"),
        (["gradients", "--set", "budget.max_steps=3"], "budget.max_steps is not for --set"),
        (["gradients", "--set", "model.hiden_size=3"], "unknown setting model.hiden_size"),
        (["recall", "--tasks", "sleep"], "unknown task sleep"),
        (["recall", "--gaps", "4,2"], "gaps must be positive and grow"),
        (["inspect", "hello", "--checkpoint", "absent"], "no checkpoint at"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    """The exit code is 2, the sentence is on the error stream, there is no traceback."""
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == EXIT_BAD_INPUT
    assert sentence in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_options_before_a_study_are_refused(tmp_path: Path) -> None:
    """Options of a training run in front of a study are refused, since they would have no effect."""
    result = CliRunner().invoke(app, ["--out", str(tmp_path / "run"), "recall"])
    assert result.exit_code == EXIT_BAD_INPUT
    assert "put options of recall" in result.stderr


def test_a_run_needs_a_place() -> None:
    """A run without --out is refused by the name of the option."""
    result = CliRunner().invoke(app, ["--max-steps", "1"])
    assert result.exit_code == EXIT_BAD_INPUT
    assert "--out" in result.stderr


def test_the_exporter_is_found_by_its_entry_point() -> None:
    """The exporter registers under the name that the study looks up."""
    assert [entry.value for entry in entry_points(group=SERVING_GROUP)] == [
        "carousel_export.serving_speed:measure_serving"
    ]
