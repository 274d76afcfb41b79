"""Two processes train as one with the same batch, started as users start them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.training import two_processes
from tests.training.conftest import VERSE

from carousel_training.cells.registry import CELLS
from carousel_training.checkpoint import LAST, load_checkpoint
from carousel_training.errors import SettingsError
from carousel_training.processes import ProcessGroup

pytestmark = pytest.mark.slow

SETTINGS = """
[corpus]
text = ["{text}"]
[vocabulary]
kind = "character"
[model]
hidden_size = 16
embedding_size = 12
num_layers = 2
dropout = 0.0
[batch]
num_lanes = 4
segment = 16
[evaluation]
every_steps = 10
log_every = 5
sample_tokens = 4
[compute]
device = "cpu"
precision = "float32"
threads = 1
"""

Train = Callable[..., Path]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Runs `carousel-train` to its end, in one process or under torchrun in two; returns the run's directory."""
    text = tmp_path / "verse.txt"
    text.write_text("".join(f"{number}: {VERSE}" for number in range(40)))
    config = tmp_path / "run.toml"
    config.write_text(SETTINGS.format(text=text))

    def run(name: str, *options: str, num_processes: int = 1) -> Path:
        script = Path(sys.executable).with_name("carousel-train")
        source = () if "--resume" in options else ("--config", str(config))
        launch(script, "--out", str(tmp_path / name), *source, *options, num_processes=num_processes)
        return tmp_path / name

    return run


def launch(script: Path, *arguments: str, num_processes: int) -> str:
    """Runs a program to its end, in one process or under torchrun in several. Returns its output."""
    command = [sys.executable]
    if num_processes > 1:
        command += ["-m", "torch.distributed.run", "--nproc-per-node", str(num_processes), "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    completed = subprocess.run(
        [*command, str(script), *arguments], env=environment, capture_output=True, text=True, timeout=200
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


def losses(directory: Path) -> list[float]:
    return [json.loads(line)["nats"] for line in (directory / "log.jsonl").read_text().splitlines()]


def test_two_processes_give_the_loss_curve_of_one(train: Train) -> None:
    """With the same batch, two processes have the losses of one at every step, and the weights and states of all lanes
    at the end, to float tolerance."""
    alone = train("alone", "--max-steps", "20")
    together = train("together", "--max-steps", "20", num_processes=2)
    assert len(losses(together)) == 8
    assert losses(together) == pytest.approx(losses(alone), rel=1e-4)
    found, expected = (load_checkpoint(directory, LAST).tensors for directory in (together, alone))
    for name in expected:
        if name.startswith(("model.", "carried.")):
            torch.testing.assert_close(found[name], expected[name], atol=1e-3, rtol=1e-2)


def test_every_cell_trains_in_two_processes() -> None:
    """Each parameter of each cell gets its gradient in both processes, and the losses are those of one. No thread of
    the exchange remains, since such a thread can abort the process when the interpreter ends."""
    printed = launch(Path(two_processes.__file__), num_processes=2)
    found = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
    assert not [name for name in found["threads"] if "gloo" in name]
    expected, found = two_processes.losses(), found["losses"]
    assert found.keys() == expected.keys() == CELLS.keys()
    for cell, nats in expected.items():
        assert found[cell] == pytest.approx(nats, rel=1e-4), cell


def test_two_processes_resume_exactly(train: Train) -> None:
    """Masks, negatives and fresh lanes follow from seed, step and process, so resumed processes end bit-identical."""
    options = ["--set", "model.dropout=0.3", "--set", "output.num_negatives=9"]
    options += ["--set", "optimizer.schedule=constant", "--set", "optimizer.warmup_fraction=0.0"]
    whole = train("whole", "--max-steps", "16", *options, num_processes=2)
    parts = train("parts", "--max-steps", "7", *options, num_processes=2)
    train("parts", "--resume", "--max-steps", "16", num_processes=2)
    found, expected = (load_checkpoint(directory, LAST).tensors for directory in (parts, whole))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if name != "window":  # a mean of the processes' means, added up in two parts
            assert torch.equal(found[name], tensor), name


def test_a_group_of_one_changes_nothing() -> None:
    """Without torchrun every exchange is the identity."""
    group, tensor = ProcessGroup.current(), torch.arange(6.0)
    assert (group.rank, group.size) == (0, 1)
    assert torch.equal(group.own_lanes(tensor), tensor)
    assert group.all_lanes(tensor) is tensor
    assert group.mean(tensor) is tensor
    assert group.agree(0.5, torch.device("cpu")) == 0.5


def test_each_process_has_its_own_lanes() -> None:
    """The parts are disjoint and in order, and lanes that cannot be shared are refused by name."""
    lanes = torch.arange(6)
    parts = [ProcessGroup(rank, 3).own_lanes(lanes) for rank in range(3)]
    assert torch.equal(torch.cat(parts), lanes)
    with pytest.raises(SettingsError, match=r"batch.num_lanes: 6 lanes cannot be shared among 4 processes"):
        ProcessGroup(0, 4).own_lanes(lanes)
