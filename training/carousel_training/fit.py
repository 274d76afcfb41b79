"""The training loop: steps, logs and evaluates at intervals, keeps the best, stops at the end of the budget or on
request.

`Progress` has everything that the loop counts, and goes into each checkpoint with the trainer's tensors. The caller
passes the clock; in a run bounded by steps alone the clock decides nothing.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from carousel_training.errors import TrainingError
from carousel_training.evaluate import Quality
from carousel_training.settings import BudgetSettings, EvaluationSettings
from carousel_training.trainer import Trainer

Clock = Callable[[], float]

_FIRST_STEPS = (1, 2, 5, 10)


@dataclass(frozen=True, slots=True)
class Progress:
    """The counts of the loop so far. `elapsed_seconds` adds up over interruptions."""

    elapsed_seconds: float = 0.0
    best_nats: float | None = None
    best_step: int = 0
    evaluated_step: int = 0
    evaluations_without_gain: int = 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class StepReport:
    """Means over the steps since the last report. `share` is the finished share of the budget.

    If `is_sampled`, the nats are an estimate against drawn words: too low on average, and not comparable with a
    validation's.
    """

    step: int
    tokens: int
    nats: float
    gradient_norm: float
    learning_rate: float
    elapsed_seconds: float
    share: float
    is_sampled: bool


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """The result on the validation text after `step` steps, and a sample of the model's text."""

    step: int
    tokens: int
    quality: Quality
    is_best: bool
    sample: str
    elapsed_seconds: float


class RunHooks(Protocol):
    """What the loop needs from the run around it. The loop calls from one thread, between steps."""

    def is_interrupted(self) -> bool: ...

    def evaluate(self, step: int) -> tuple[Quality, str]:
        """Returns quality on the validation text and a sample. Must not change the trainer or any generator."""
        ...

    def report_steps(self, report: StepReport) -> None: ...

    def report_evaluation(self, report: EvaluationReport) -> None: ...

    def save_best(self, progress: Progress) -> None: ...

    def save_last(self, progress: Progress) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    progress: Progress
    is_interrupted: bool


def fit(
    trainer: Trainer,
    hooks: RunHooks,
    budget: BudgetSettings,
    evaluation: EvaluationSettings,
    progress: Progress,
    clock: Clock,
) -> Outcome:
    """Trains until the budget is spent, patience runs out, or the hooks ask to stop, and saves the last checkpoint.

    Raises TrainingError when the loss stops being a number, and leaves the checkpoints as they are.
    """
    started = clock() - progress.elapsed_seconds
    while not is_done(budget, progress, trainer.step):
        trainer.advance(share_done(budget, progress, trainer.step))
        progress = replace(progress, elapsed_seconds=clock() - started)
        if _is_to_be_told(trainer.step, evaluation.log_every):
            _report_steps(trainer, hooks, budget, progress)
        if trainer.step % evaluation.every_steps == 0:
            progress = _evaluate(trainer, hooks, progress)
            progress = replace(progress, elapsed_seconds=clock() - started)
            hooks.save_last(progress)
        if hooks.is_interrupted():
            hooks.save_last(progress)
            return Outcome(progress, is_interrupted=True)
    if progress.evaluated_step != trainer.step:
        progress = _evaluate(trainer, hooks, progress)
        hooks.save_last(progress)
    return Outcome(progress, is_interrupted=False)


def _is_to_be_told(step: int, log_every: int) -> bool:
    """Whether to report a step: every `log_every` steps, and a few of the first, to show early that the run works."""
    return step % log_every == 0 or (step in _FIRST_STEPS and step < log_every)


def share_done(budget: BudgetSettings, progress: Progress, step: int) -> float:
    """Returns the spent share of the budget: the larger share of steps and minutes, 1 at the end."""
    steps = 0.0 if budget.max_steps is None else step / budget.max_steps
    minutes = 0.0 if budget.max_minutes is None else progress.elapsed_seconds / (60.0 * budget.max_minutes)
    return min(max(steps, minutes), 1.0)


def is_done(budget: BudgetSettings, progress: Progress, step: int) -> bool:
    if budget.patience is not None and progress.evaluations_without_gain >= budget.patience:
        return True
    return share_done(budget, progress, step) >= 1.0


def _report_steps(trainer: Trainer, hooks: RunHooks, budget: BudgetSettings, progress: Progress) -> None:
    nats, gradient_norm = trainer.pop_means()
    if not math.isfinite(nats):
        raise TrainingError(
            f"the loss is {nats} at step {trainer.step}; try a smaller optimizer.learning_rate or optimizer.clip_norm"
        )
    hooks.report_steps(
        StepReport(
            step=trainer.step,
            tokens=trainer.num_tokens,
            nats=nats,
            gradient_norm=gradient_norm,
            learning_rate=trainer.learning_rate,
            elapsed_seconds=progress.elapsed_seconds,
            share=share_done(budget, progress, trainer.step),
            is_sampled=trainer.is_sampled,
        )
    )


def _evaluate(trainer: Trainer, hooks: RunHooks, progress: Progress) -> Progress:
    quality, text = hooks.evaluate(trainer.step)
    nats = quality.nats_per_token
    if not math.isfinite(nats):
        raise TrainingError(f"the validation loss is {nats} at step {trainer.step}; try a smaller learning rate")
    trainer.average.observe(nats)
    is_best = progress.best_nats is None or nats < progress.best_nats
    progress = replace(
        progress,
        best_nats=nats if is_best else progress.best_nats,
        best_step=trainer.step if is_best else progress.best_step,
        evaluated_step=trainer.step,
        evaluations_without_gain=0 if is_best else progress.evaluations_without_gain + 1,
    )
    hooks.report_evaluation(
        EvaluationReport(trainer.step, trainer.num_tokens, quality, is_best, text, progress.elapsed_seconds)
    )
    if is_best:
        hooks.save_best(progress)
    return progress
