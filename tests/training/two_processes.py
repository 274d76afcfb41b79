"""Trains each cell for three steps and prints its losses as JSON: a program for torchrun, and for one process."""

import json
import os
from pathlib import Path

import torch

from carousel_training.batches import Chances, LanePlan, TrainingBatches
from carousel_training.cells.registry import CELLS
from carousel_training.model import ModelConfig, RecurrentLM
from carousel_training.precision import Compute
from carousel_training.processes import ProcessGroup, join_processes
from carousel_training.settings import OptimizerSettings
from carousel_training.trainer import Trainer

NUM_STEPS = 3


def losses() -> dict[str, list[float]]:
    """By cell; of two layers, with lanes that begin afresh and without dropout, so that all groups do the same."""
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {}
    for cell in CELLS:
        torch.manual_seed(ProcessGroup.current().rank)  # the first process's weights count
        model = RecurrentLM(ModelConfig(9, cell, 2, 8, 6, tied=False, dropout=0.0, window=3))
        batches = TrainingBatches(torch.arange(200) * 7 % 9, 0, LanePlan(4, 5), Chances(1, 0.25))
        settings = OptimizerSettings(schedule="constant", warmup_fraction=0.0)
        trainer = Trainer(model, batches, settings, Compute(torch.device("cpu"), uses_bfloat16=False))
        found[cell] = []
        for _ in range(NUM_STEPS):
            trainer.advance(0.5)
            found[cell].append(trainer.pop_means()[0])
    return found


def threads() -> list[str]:
    """Names of this process's threads, those of libraries too."""
    return sorted((task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir())


def main() -> None:
    with join_processes(os.environ):
        found = losses()
        is_first = ProcessGroup.current().is_first
    if is_first:
        print(json.dumps({"losses": found, "threads": threads()}))


if __name__ == "__main__":
    main()
