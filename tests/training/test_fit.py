"""The loop evaluates, keeps, saves and stops at the right steps, with a fake clock and desk."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from carousel_training.batches import Chances, LanePlan, TrainingBatches
from carousel_training.errors import TrainingError
from carousel_training.evaluate import Quality
from carousel_training.fit import EvaluationReport, Outcome, Progress, StepReport, fit
from carousel_training.model import ModelConfig, RecurrentLM
from carousel_training.precision import Compute
from carousel_training.settings import BudgetSettings, EvaluationSettings, OptimizerSettings
from carousel_training.trainer import Trainer

EVALUATION = EvaluationSettings(every_steps=5, log_every=2)


@dataclass
class FakeDesk:
    """Records all calls. Validation nats are `qualities` in turn, and the last one repeats."""

    qualities: list[float] = field(default_factory=lambda: [1.0])
    interrupt_at: int | None = None
    events: list[Any] = field(default_factory=list)
    steps: list[StepReport] = field(default_factory=list)
    saved: list[Progress] = field(default_factory=list)
    num_questions: int = 0

    def is_interrupted(self) -> bool:
        self.num_questions += 1
        return self.num_questions == self.interrupt_at

    def evaluate(self, step: int) -> tuple[Quality, str]:
        self.events.append(("evaluate", step))
        nats = self.qualities.pop(0) if len(self.qualities) > 1 else self.qualities[0]
        return Quality.of(nats, None), "sample"

    def report_steps(self, report: StepReport) -> None:
        self.steps.append(report)

    def report_evaluation(self, report: EvaluationReport) -> None:
        self.events.append(("best" if report.is_best else "worse", report.step))

    def save_best(self, progress: Progress) -> None:
        self.events.append(("save best", progress.best_step))

    def save_last(self, progress: Progress) -> None:
        self.events.append(("save last", progress.evaluated_step))
        self.saved.append(progress)


class FakeClock:
    """Advances by ten seconds at each call."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        self.seconds += 10.0
        return self.seconds


def build(learning_rate: float = 1e-2) -> Trainer:
    torch.manual_seed(0)
    model = RecurrentLM(ModelConfig(5, "gru", 1, 4, 4, tied=True, dropout=0.0))
    batches = TrainingBatches(torch.arange(50) % 5, 0, LanePlan(2, 4), Chances(0, 0.0))
    settings = OptimizerSettings(learning_rate=learning_rate, schedule="constant", warmup_fraction=0.0)
    return Trainer(model, batches, settings, Compute(torch.device("cpu"), uses_bfloat16=False))


def run(trainer: Trainer, desk: FakeDesk, budget: BudgetSettings, progress: Progress | None = None) -> Outcome:
    return fit(trainer, desk, budget, EVALUATION, progress or Progress(), FakeClock())


def test_a_run_in_steps_evaluates_on_the_way_and_at_the_end() -> None:
    """12 steps are evaluated after 5, 10 and 12; the best is kept, the last saved after each evaluation."""
    trainer, desk = build(), FakeDesk([3.0, 2.0, 2.5])
    outcome = run(trainer, desk, BudgetSettings(max_steps=12))
    assert desk.events == [
        *[("evaluate", 5), ("best", 5), ("save best", 5), ("save last", 5)],
        *[("evaluate", 10), ("best", 10), ("save best", 10), ("save last", 10)],
        *[("evaluate", 12), ("worse", 12), ("save last", 12)],
    ]
    assert (outcome.progress.best_nats, outcome.progress.best_step, outcome.is_interrupted) == (2.0, 10, False)
    assert [report.step for report in desk.steps] == [1, 2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize(("log_every", "told"), [(1, [1, 2, 3]), (2, [1, 2]), (3, [1, 2, 3]), (25, [1, 2])])
def test_the_first_steps_are_told_whatever_the_pace(log_every: int, told: list[int]) -> None:
    """Some of the first steps are reported, each once, so a model with slow steps shows progress early."""
    desk = FakeDesk()
    evaluation = EvaluationSettings(every_steps=5, log_every=log_every)
    fit(build(), desk, BudgetSettings(max_steps=3), evaluation, Progress(), FakeClock())
    assert [report.step for report in desk.steps] == told


def test_patience_ends_a_run() -> None:
    """Two evaluations without a gain end a run with a patience of two."""
    trainer = build()
    outcome = run(trainer, FakeDesk([2.0, 3.0, 1.5, 1.5, 1.6]), BudgetSettings(max_steps=100, patience=2))
    assert (trainer.step, outcome.progress.best_step) == (25, 15)


def test_minutes_end_a_run_and_count_over_interruptions() -> None:
    """At ten seconds a step, 40 seconds are four steps, or two if half of it is already gone."""
    trainer = build()
    run(trainer, FakeDesk(), BudgetSettings(max_minutes=40 / 60))
    assert trainer.step == 4
    trainer = build()
    outcome = run(trainer, FakeDesk(), BudgetSettings(max_minutes=40 / 60), Progress(elapsed_seconds=20.0))
    assert trainer.step == 2
    assert outcome.progress.elapsed_seconds == 40.0


def test_the_first_bound_that_is_reached_ends_the_run() -> None:
    """The first bound of steps and minutes ends the run."""
    trainer = build()
    run(trainer, FakeDesk(), BudgetSettings(max_steps=4, max_minutes=1.0))
    assert trainer.step == 4


def test_an_interruption_saves_and_stops_between_steps() -> None:
    """After an interruption the current step finishes, the last checkpoint is saved, and nothing is evaluated."""
    trainer, desk = build(), FakeDesk(interrupt_at=3)
    outcome = run(trainer, desk, BudgetSettings(max_steps=12))
    assert outcome.is_interrupted
    assert trainer.step == 3
    assert desk.events == [("save last", 0)]


def test_a_lost_loss_ends_the_run_without_saving() -> None:
    """NaN is an error that says what to try, and it does not overwrite the good checkpoint."""
    trainer, desk = build(), FakeDesk([float("nan")])
    with pytest.raises(TrainingError, match="validation loss is nan at step 5"):
        run(trainer, desk, BudgetSettings(max_steps=12))
    with torch.no_grad():
        trainer.model.output_bias[0] = float("nan")
    with pytest.raises(TrainingError, match="the loss is nan at step 6; try a smaller"):
        run(trainer, desk, BudgetSettings(max_steps=12))
    assert desk.saved == []


def test_the_loss_falls_on_a_text_that_repeats_itself() -> None:
    """A network that sees 0 1 2 3 4 over and over learns to count."""
    trainer, desk = build(learning_rate=3e-2), FakeDesk()
    run(trainer, desk, BudgetSettings(max_steps=150))
    assert desk.steps[0].nats > 1.3
    assert desk.steps[-1].nats < 0.1
