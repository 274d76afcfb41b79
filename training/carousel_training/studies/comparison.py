"""Cells on equal terms: the same text, budget, number of parameters and tuning effort, several seeds each.

Serving speed is measured by a function that is given, since this package knows no server. It prints nothing itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from carousel_training.cells.registry import CELLS
from carousel_training.checkpoint import TrainedModel, load_model
from carousel_training.settings import BudgetSettings, Settings
from carousel_training.studies.cached_runs import CachedRuns, RunResult
from carousel_training.studies.sizing import match_hidden_size

ServingSpeed = Callable[[TrainedModel], Mapping[int, float]]


@dataclass(frozen=True, slots=True)
class ComparisonPlan:
    """`settings` holds all but the cell, its width and its rate. Each cell is tuned over `rate_factors` times its own
    default rate, on runs of `tuning_share` of the budget with seed 0, then runs with the seeds 0..num_seeds-1."""

    settings: Settings
    cells: tuple[str, ...]
    num_parameters: int
    num_seeds: int = 2
    rate_factors: tuple[float, ...] = (1.0,)
    tuning_share: float = 0.25

    @property
    def num_runs(self) -> int:
        num_tuning = len(self.rate_factors) if len(self.rate_factors) > 1 else 0
        return len(self.cells) * (num_tuning + self.num_seeds)


@dataclass(frozen=True, slots=True)
class CellResult:
    """All runs of one cell. `tried` is the tuning, nats by rate; `serving` is tokens/s by batch size, or why not."""

    cell: str
    hidden_size: int
    learning_rate: float
    tried: Mapping[float, float | None]
    runs: tuple[RunResult, ...]
    serving: Mapping[int, float] | str

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"tokens_per_second": [run.tokens_per_second for run in self.runs]}


def compare(
    plan: ComparisonPlan, runs: CachedRuns, vocabulary_size: int, serving_speed: ServingSpeed | None
) -> list[CellResult]:
    """One result per cell. Raises StudyInterrupted in the middle of a run, TrainingError for what cannot run."""
    sized = [_size(plan, cell, vocabulary_size) for cell in plan.cells]
    return [_compare_cell(plan, settings, runs, serving_speed) for settings in sized]


def ranked(results: Sequence[CellResult]) -> list[CellResult]:
    """Best mean validation loss first; cells with a run that diverged last."""

    def mean(result: CellResult) -> float:
        return sum(float("inf") if run.nats is None else run.nats for run in result.runs) / len(result.runs)

    return sorted(results, key=mean)


def rate_grid(num_rates: int) -> tuple[float, ...]:
    """Factors half a decade apart around 1: three give 0.316, 1 and 3.16."""
    return tuple(float(f"{10.0 ** ((index - (num_rates - 1) / 2) / 2):.3g}") for index in range(num_rates))


def _size(plan: ComparisonPlan, cell: str, vocabulary_size: int) -> Settings:
    """The plan's settings with this cell at the wanted number of parameters."""
    model = plan.settings.model.model_copy(update={"cell": cell})
    width = match_hidden_size(model, vocabulary_size, plan.num_parameters)
    return plan.settings.model_copy(update={"model": model.model_copy(update={"hidden_size": width})})


def _compare_cell(
    plan: ComparisonPlan, sized: Settings, runs: CachedRuns, serving_speed: ServingSpeed | None
) -> CellResult:
    cell = sized.model.cell
    rate, tried = _tune(plan, sized, runs)
    tuned = _with_rate(sized, rate)
    results = [
        runs.result(f"{cell}-seed-{seed}", tuned.model_copy(update={"seed": seed}), keeps_weights=seed == 0)
        for seed in range(plan.num_seeds)
    ]
    serving = _measure_serving(runs, f"{cell}-seed-0", results[0], serving_speed)
    return CellResult(cell, sized.model.hidden_size, rate, tried, tuple(results), serving)


def _tune(plan: ComparisonPlan, sized: Settings, runs: CachedRuns) -> tuple[float, dict[float, float | None]]:
    """The best rate of the grid; the cell's own default where all runs diverge or the grid is that alone."""
    default = CELLS[sized.model.cell].learning_rate
    rates = [float(f"{default * factor:.3g}") for factor in plan.rate_factors]
    if len(rates) == 1:
        return rates[0], {}
    short = sized.model_copy(update={"budget": _share(sized.budget, plan.tuning_share), "seed": 0})
    tried = {
        rate: runs.result(f"{sized.model.cell}-rate-{rate:g}", _with_rate(short, rate), keeps_weights=False).nats
        for rate in rates
    }
    finished = {rate: nats for rate, nats in tried.items() if nats is not None}
    return min(finished, key=finished.__getitem__, default=default), tried


def _with_rate(settings: Settings, rate: float) -> Settings:
    optimizer = settings.optimizer.model_copy(update={"learning_rate": rate})
    return settings.model_copy(update={"optimizer": optimizer})


def _share(budget: BudgetSettings, share: float) -> BudgetSettings:
    steps = None if budget.max_steps is None else max(1, round(share * budget.max_steps))
    minutes = None if budget.max_minutes is None else share * budget.max_minutes
    return budget.model_copy(update={"max_steps": steps, "max_minutes": minutes})


def _measure_serving(
    runs: CachedRuns, name: str, result: RunResult, serving_speed: ServingSpeed | None
) -> Mapping[int, float] | str:
    """Of the first seed's model. What cannot be served says why instead of ending the comparison."""
    if serving_speed is None:
        return "not measured: carousel-export and its libraries are not installed"
    if result.nats is None:
        return "not measured: the run diverged"
    try:
        return dict(serving_speed(load_model(runs.directory / name)))
    except Exception as error:  # whatever an exporter raises for a model that it cannot write
        return f"not measured: {type(error).__name__}: {error}"
