"""`carousel-train` as a process trains, refuses bad input in one sentence, and saves after Ctrl-C."""

import json
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from carousel_training.checkpoint import LAST, load_checkpoint
from carousel_training.cli import EXIT_BAD_INPUT, EXIT_INTERRUPTED, app

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-c", "from carousel_training.cli import main; main()"]
ENDLESS = "1000000"
SETTINGS = {
    "vocabulary.kind": "character",
    "model.hidden_size": "16",
    "model.embedding_size": "16",
    "batch.num_lanes": "4",
    "batch.segment": "16",
    "evaluation.every_steps": "50",
    "evaluation.log_every": "10",
    "evaluation.sample_tokens": "8",
    "compute.threads": "1",
    "compute.precision": "float32",
}
OPTIONS = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]


def wait_for_line(process: subprocess.Popen[str], start: str, timeout_seconds: float) -> None:
    """Blocks until the process prints a line that contains `start`."""
    assert process.stdout is not None
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        select.select([process.stdout], [], [], deadline - time.monotonic())
        if start in process.stdout.readline():
            return
    raise AssertionError(f"no line with {start!r} in {timeout_seconds} seconds")


def train_until_signal(out: Path, arguments: list[str], number: signal.Signals) -> str:
    """Trains in another process, signals it after the first evaluation, and returns its output."""
    process = subprocess.Popen(
        [*COMMAND, "--out", str(out), "--max-steps", ENDLESS, *arguments], stdout=subprocess.PIPE, text=True
    )
    with process:
        wait_for_line(process, "step 50", 60)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == EXIT_INTERRUPTED
    return output


def test_sigterm_saves_and_says_how_to_go_on(tmp_path: Path, verse_file: Path) -> None:
    """SIGTERM stops a run as Ctrl-C does."""
    out = tmp_path / "run"
    output = train_until_signal(out, ["--text", str(verse_file), *OPTIONS], signal.SIGTERM)
    assert f"carousel-train --resume --out {out}" in output
    assert load_checkpoint(out, LAST).facts["step"] >= 50


def test_ctrl_c_saves_and_resume_goes_on_exactly(tmp_path: Path, verse_file: Path) -> None:
    """SIGINT during training saves a checkpoint and prints the command that continues. The resumed run ends
    bit-identical to a run in this process that stopped at the same step."""
    out, twin = tmp_path / "run", tmp_path / "twin"
    arguments = ["--text", str(verse_file), *OPTIONS]
    output = train_until_signal(out, arguments, signal.SIGINT)
    assert f"carousel-train --resume --out {out}" in output
    step = load_checkpoint(out, LAST).facts["step"]
    assert step >= 50
    runner = CliRunner()
    train_twin(twin, arguments, step, runner)
    for directory in (out, twin):
        result = runner.invoke(app, ["--resume", "--out", str(directory), "--max-steps", str(step + 30)])
        assert result.exit_code == 0, result.output
    found, expected = load_checkpoint(out, LAST), load_checkpoint(twin, LAST)
    assert found.facts["step"] == step + 30
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in expected.tensors.items())


def train_twin(directory: Path, arguments: list[str], num_steps: int, runner: CliRunner) -> None:
    """Trains the same run in this process and stops it after `num_steps`, as a signal does."""
    from carousel_training import cli

    class StopAtStep:
        num_asked = 0

        @property
        def is_requested(self) -> bool:
            self.num_asked += 1
            return self.num_asked == num_steps

    class Catch:
        def __enter__(self) -> StopAtStep:
            return StopAtStep()

        def __exit__(self, *error: object) -> None: ...

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "catch_interruption", Catch)
        result = runner.invoke(app, ["--out", str(directory), "--max-steps", ENDLESS, *arguments])
    assert result.exit_code == EXIT_INTERRUPTED, result.output


def test_flags_and_overrides_reach_the_run(tmp_path: Path, verse_file: Path) -> None:
    """--text, --max-steps and --set end up in the checkpoint's settings."""
    arguments = ["--out", str(tmp_path / "run"), "--text", str(verse_file), "--max-steps", "3", *OPTIONS]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    settings = json.loads((tmp_path / "run" / "last.json").read_text())["settings"]
    assert settings["corpus"]["text"] == [str(verse_file)]
    assert settings["budget"] == {"max_steps": 3, "max_minutes": None, "patience": None}
    assert settings["model"]["hidden_size"] == 16


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "model.hiden_size=3"], "unknown setting model.hiden_size"),
        (["--text", "absent.txt"], "cannot read absent.txt"),
        (["--config", "absent.toml"], "cannot read absent.toml"),
        (["--resume"], "no checkpoint at"),
        (["--resume", "--max-steps", "5"], "no checkpoint at"),
        (["--resume", "--set", "seed=1"], "leave the other options out"),
        (["--max-steps", "0"], "budget.max_steps"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    """The exit code is 2, the sentence is on the error stream, there is no traceback and no directory."""
    result = CliRunner().invoke(app, ["--out", str(tmp_path / "run"), *arguments])
    assert result.exit_code == EXIT_BAD_INPUT
    assert sentence in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_vocabulary_too_small_for_bpe_is_refused(tmp_path: Path) -> None:
    """A size below the 256 bytes cannot be learned, and the error names the setting."""
    result = CliRunner().invoke(app, ["--out", str(tmp_path / "run"), "--set", "vocabulary.size=100"])
    assert result.exit_code == EXIT_BAD_INPUT
    assert "vocabulary.size" in result.stderr
