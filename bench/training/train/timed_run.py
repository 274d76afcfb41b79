"""A training in a process of its own with one thread, whose budget counts core seconds.

Trainings run side by side, one on each core: small products gain less from a second thread than from a second training.
Other work on the machine makes them last longer, and changes their results little.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from carousel_training.display import Display
from carousel_training.run import LOG_FILE, start_run
from carousel_training.settings import Settings
from carousel_training.studies.comparison.workers import worker_processes

Evaluations = list[dict[str, Any]]
Name = TypeVar("Name")


def train(settings: Settings, directory: Path) -> Evaluations:
    """Trains in this process, and returns what the log says of each evaluation, in the order of time."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        run = start_run(settings, directory, Display(Console(file=nowhere)), is_fresh=True)
        run.execute(lambda: False, clock=time.process_time)
    records = [json.loads(line) for line in (directory / LOG_FILE).read_text(encoding="utf-8").splitlines()]
    return [record for record in records if record["kind"] == "evaluation"]


def train_side_by_side(
    jobs: Mapping[Name, tuple[Settings, Path]], num_workers: int
) -> Iterator[tuple[Name, Evaluations]]:
    """Trains each job, and yields its name and its evaluations as it ends."""
    with worker_processes(num_workers) as executor:
        futures = {executor.submit(train, *job): name for name, job in jobs.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()
