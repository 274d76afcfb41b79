"""This module runs one training of a comparison in this process, at a constant rate with a cooldown to every mark.

It prints nothing and writes no file.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from carousel_training.batches import Chances, LanePlan, TrainingBatches
from carousel_training.model import ModelConfig, RecurrentLM
from carousel_training.precision import Compute
from carousel_training.randomness import seed_generators
from carousel_training.settings import Settings
from carousel_training.studies.comparison.gate_bias import shift_gate_bias
from carousel_training.studies.comparison.jobs import Job, JobResult, MarkResult, Reading
from carousel_training.studies.comparison.reading import Stretches
from carousel_training.studies.comparison.study_text import load_open_parts, load_test_part, load_tokenizer
from carousel_training.trainer import Trainer

CHECK_EVERY = 50  # steps between checks that the loss is a number


class LossLost(Exception):
    """The loss is no longer a number."""


def run_job(job: Job, text_directory: Path) -> JobResult:
    """Trains, and reads the validation part at every mark; reads the test part as well in a final."""
    started = time.perf_counter()
    trainer = build_trainer(job.settings, job.gate_shift, text_directory)
    texts = _Texts(job, text_directory, trainer)
    marks: list[MarkResult] = []
    with contextlib.suppress(LossLost):
        for mark in _train_to_marks(job, trainer, texts):
            marks.append(mark)
    return JobResult(tuple(marks), time.perf_counter() - started)


def build_trainer(settings: Settings, gate_shift: float, text_directory: Path) -> Trainer:
    compute = Compute.choose(settings.compute)
    ids_N = load_open_parts(text_directory)[0].to(compute.device)
    tokenizer = load_tokenizer(text_directory)
    plan = LanePlan(settings.batch.num_lanes, settings.batch.segment)
    batches = TrainingBatches(ids_N, tokenizer.start_id, plan, Chances(settings.seed, settings.batch.fresh))
    seed_generators(settings.seed)
    config = ModelConfig.from_settings(settings.model, tokenizer.size)
    model = RecurrentLM(config).to(compute.device)
    model.begin_with_counts(batches.count_tokens(tokenizer.size))
    shift_gate_bias(config.cell, model.stack, gate_shift)
    return Trainer(model, batches, settings.optimizer, compute)


class _Texts:
    """Holds the held-out parts that a job may read."""

    def __init__(self, job: Job, directory: Path, trainer: Trainer) -> None:
        plan, device = job.reading, trainer.model.device
        start_id = load_tokenizer(directory).start_id
        self._trainer = trainer
        self._valid = Stretches(load_open_parts(directory)[1].to(device), start_id, plan, plan.valid_tokens)
        self._test = None
        if job.reads_test:
            self._test = Stretches(load_test_part(directory).to(device), start_id, plan, plan.test_tokens)

    def read(self) -> tuple[Reading, Reading | None]:
        """Reads validation and test. Raises LossLost when a mean is not a number."""
        model, compute = self._trainer.model, self._trainer.compute
        valid = self._valid.read(model, compute)
        test = None if self._test is None else self._test.read(model, compute)
        if not all(math.isfinite(reading.nats) for reading in (valid, test) if reading is not None):
            raise LossLost
        return valid, test


def _train_to_marks(job: Job, trainer: Trainer, texts: _Texts) -> Iterator[MarkResult]:
    """Counts the process's core seconds: a training has one thread, and the machine has other work."""
    schedule, constant_seconds = job.schedule, 0.0
    for mark in schedule.marks:
        constant_seconds += _advance(job, trainer, mark, schedule.cooldown_start(mark))
        before = _copy(trainer)
        cooling_seconds = _advance(job, trainer, mark, mark)
        valid, test = texts.read()
        yield MarkResult(mark, trainer.num_tokens, constant_seconds + cooling_seconds, valid, test)
        trainer.restore(*before)


def _advance(job: Job, trainer: Trainer, mark: int, end: int) -> float:
    """Trains on the way to `mark` until `end` steps are done, and returns the seconds."""
    started = time.process_time()
    while trainer.step < end:
        trainer.advance(trainer.step / mark, job.schedule.factor(trainer.step, mark))
        if trainer.step % CHECK_EVERY == 0 and not math.isfinite(trainer.pop_means()[0]):
            raise LossLost
    return time.process_time() - started


def _copy(trainer: Trainer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return {name: tensor.clone() for name, tensor in trainer.tensors().items()}, trainer.facts()
