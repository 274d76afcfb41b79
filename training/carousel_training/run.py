"""A run and its directory. A run begins from settings or resumes from the last checkpoint, and serves the loop.

The directory holds `tokenizer.json`, `last.json` and `best.json` with their tensors, `log.jsonl` and `loss.png`.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from carousel_training.checkpoint import (
    BEST,
    LAST,
    load_checkpoint,
    model_tensors,
    save_checkpoint,
    save_tokenizer,
)
from carousel_training.curve import plot_curve
from carousel_training.display import Display
from carousel_training.errors import CheckpointError, TrainingError
from carousel_training.evaluate import Quality, SamplePlan, evaluate, sample
from carousel_training.fit import Clock, EvaluationReport, Outcome, Progress, StepReport, fit
from carousel_training.journal import Journal
from carousel_training.materials import Materials, make_materials
from carousel_training.model import RecurrentLM
from carousel_training.processes import ProcessGroup
from carousel_training.settings import BudgetSettings, Settings
from carousel_training.trainer import Trainer

LOG_FILE = "log.jsonl"
CURVE_FILE = "loss.png"


class Run:
    """A run in `directory`. Callers may call `execute` once."""

    def __init__(
        self,
        directory: Path,
        materials: Materials,
        tokenizer_facts: dict[str, Any],
        progress: Progress,
        display: Display,
    ) -> None:
        self.directory = directory
        self.materials = materials
        self.journal = Journal(directory / LOG_FILE)
        self._tokenizer_facts = tokenizer_facts
        self._progress = progress
        self._display = display
        self._is_interrupted: Callable[[], bool] = lambda: False
        self._logged = (materials.trainer.num_tokens, progress.elapsed_seconds)
        self._last_quality: Quality | None = None

    def __repr__(self) -> str:
        return f"Run({self.directory}, {self.materials.trainer!r})"

    def execute(self, is_interrupted: Callable[[], bool], clock: Clock = time.monotonic) -> Outcome:
        """Trains to the end of the budget or until interrupted. Raises TrainingError when the loss stops being a
        number.
        """
        group, device = ProcessGroup.current(), self.materials.trainer.model.device
        self._is_interrupted = lambda: bool(group.agree(float(is_interrupted()), device))
        settings, trainer = self.materials.settings, self.materials.trainer
        with self._display:
            return fit(
                trainer,
                self,
                settings.budget,
                settings.evaluation,
                self._progress,
                lambda: group.agree(clock(), device),
            )

    def test_quality(self) -> Quality | None:
        """Measures the best weights on the test text. Returns None without a test text."""
        if self.materials.test is None:
            return None
        model, compute = self.materials.trainer.model, self.materials.trainer.compute
        best = load_checkpoint(self.directory, BEST)
        fresh = RecurrentLM(model.config).to(model.device)
        fresh.load_state_dict(model_tensors(best.tensors))
        return evaluate(fresh, self.materials.test, compute)

    def is_interrupted(self) -> bool:
        return self._is_interrupted()

    def evaluate(self, step: int) -> tuple[Quality, str]:
        trainer, settings = self.materials.trainer, self.materials.settings
        with trainer.average.in_place():
            return self._evaluate(trainer, settings, step)

    def _evaluate(self, trainer: Trainer, settings: Settings, step: int) -> tuple[Quality, str]:
        self._last_quality = evaluate(trainer.model, self.materials.valid, trainer.compute)
        plan = SamplePlan(
            settings.evaluation.sample_tokens, settings.evaluation.sample_temperature, settings.seed + step
        )
        ids = sample(trainer.model, [self.materials.tokenizer.start_id], plan)
        return self._last_quality, self.materials.tokenizer.decode(ids)

    def report_steps(self, report: StepReport) -> None:
        tokens_before, seconds_before = self._logged
        self._logged = (report.tokens, report.elapsed_seconds)
        speed = (report.tokens - tokens_before) / max(report.elapsed_seconds - seconds_before, 1e-9)
        record = {
            "kind": "train",
            "step": report.step,
            "tokens": report.tokens,
            "nats": report.nats,
            "is_sampled": report.is_sampled,
            "gradient_norm": report.gradient_norm,
            "learning_rate": report.learning_rate,
            "seconds": round(report.elapsed_seconds, 3),
            "tokens_per_second": round(speed, 1),
        }
        self.journal.append(record)
        self._display.report_steps(report, speed)

    def report_evaluation(self, report: EvaluationReport) -> None:
        quality = report.quality
        record = {
            "kind": "evaluation",
            "step": report.step,
            "tokens": report.tokens,
            "nats": quality.nats_per_token,
            "bits_per_token": quality.bits_per_token,
            "perplexity": quality.perplexity,
            "bits_per_byte": quality.bits_per_byte,
            "is_best": report.is_best,
            "sample": report.sample,
            "seconds": round(report.elapsed_seconds, 3),
        }
        self.journal.append(record)
        self._display.report_evaluation(report)
        plot_curve(self.journal.records(), self._title(), self.directory / CURVE_FILE)

    def save_best(self, progress: Progress) -> None:
        trainer = self.materials.trainer
        with trainer.average.in_place():
            save_checkpoint(self.directory, BEST, self._facts(progress), trainer.weights())

    def save_last(self, progress: Progress) -> None:
        facts = self._facts(progress) | {"journal_bytes": self.journal.num_bytes}
        save_checkpoint(self.directory, LAST, facts, self.materials.trainer.tensors())

    def _facts(self, progress: Progress) -> dict[str, Any]:
        materials = self.materials
        corpus, chat = materials.corpus, materials.settings.chat.format
        return {
            **materials.trainer.facts(),
            "model": materials.trainer.model.config.as_json(),
            "tokenizer": self._tokenizer_facts,
            "settings": materials.settings.as_json(),
            "corpus": {"source": corpus.source, "sha256": corpus.digest, "num_bytes": corpus.num_bytes},
            "progress": progress.as_json(),
            "training": self._training_facts(progress),
            "chat": None if chat is None else chat.as_json(),
        }

    def _training_facts(self, progress: Progress) -> dict[str, Any]:
        """Returns what a bundle's manifest says about the training, without paths of this machine."""
        materials = self.materials
        settings = materials.settings.as_json()
        del settings["corpus"], settings["compute"], settings["chat"]  # the manifest has the chat itself
        return {
            "corpus": materials.corpus.source,
            "corpus_sha256": materials.corpus.digest,
            "corpus_bytes": materials.corpus.num_bytes,
            "corpus_share_leaked": materials.share_leaked,
            "tokens_seen": materials.trainer.num_tokens,
            "steps": materials.trainer.step,
            "wall_seconds": round(progress.elapsed_seconds, 1),
            "validation": None if self._last_quality is None else self._last_quality.as_json(),
            "compute": materials.trainer.compute.describe(),
            "torch": str(torch.__version__),
            "settings": settings,
        }

    def _title(self) -> str:
        config = self.materials.trainer.model.config
        name = f"{config.cell.upper()} {config.num_layers} x {config.hidden_size}"
        return (
            f"{name}, {config.vocabulary_size:,} {self.materials.tokenizer.kind} tokens, {self.materials.corpus.source}"
        )


def start_run(settings: Settings, directory: Path, display: Display, *, is_fresh: bool = False) -> Run:
    """Starts a new run. Refuses or, with `is_fresh`, removes an earlier run in the directory. Raises TrainingError."""
    materials = make_materials(settings)
    _clear(directory, is_fresh=is_fresh)
    return Run(directory, materials, save_tokenizer(directory, materials.tokenizer), Progress(), display)


def resume_run(directory: Path, display: Display, budget: BudgetSettings | None = None) -> Run:
    """Continues the run exactly after its last checkpoint. `budget` replaces the run's own.

    Raises CheckpointError when the corpus or the vocabulary has changed since.
    """
    checkpoint = load_checkpoint(directory, LAST)
    facts = checkpoint.facts
    settings = Settings.parse(facts["settings"])
    if budget is not None:
        settings = settings.model_copy(update={"budget": budget})
    materials = make_materials(settings, checkpoint.tokenizer)
    if materials.corpus.digest != facts["corpus"]["sha256"]:
        raise CheckpointError(
            f"{materials.corpus.source} is not the text that {checkpoint.path} was trained on; it has changed"
        )
    materials.trainer.restore(checkpoint.tensors, facts)
    run = Run(directory, materials, dict(facts["tokenizer"]), Progress(**facts["progress"]), display)
    run.journal.truncate(facts["journal_bytes"])
    return run


def _clear(directory: Path, *, is_fresh: bool) -> None:
    """Makes the directory and removes the files of a run, but no others."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"cannot make {directory}: {error.strerror or error}") from error
    if not is_fresh and (directory / f"{LAST}.json").exists():
        raise TrainingError(f"{directory} holds a run already: --resume continues it, --fresh replaces it")
    for name in (LAST, BEST):
        (directory / f"{name}.json").unlink(missing_ok=True)
        for tensors in directory.glob(f"{name}-*.safetensors"):
            tensors.unlink()
    for name in (LOG_FILE, CURVE_FILE):
        (directory / name).unlink(missing_ok=True)
