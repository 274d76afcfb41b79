"""A comparison as a table and a picture. Every mean comes with its spread, the sample standard deviation over seeds."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from rich.table import Table

from carousel_training.curve import INK
from carousel_training.studies.comparison import CellResult, ranked
from carousel_training.studies.plots import COLOURS, new_figure, save_figure, tidy
from carousel_training.studies.tables import new_table, show, spread


def comparison_table(results: Sequence[CellResult]) -> Table:
    """Best first."""
    batch_sizes = sorted({size for result in results if not isinstance(result.serving, str) for size in result.serving})
    serving = [f"serving, B={size}" for size in batch_sizes]
    columns = ["width", "parameters", "rate", "nats", "training tokens/s", *serving, "state bytes"]
    table = new_table("cells on equal terms: validation nats, tokens per second", ["cell"], columns)
    for result in ranked(results):
        speeds = [None if isinstance(result.serving, str) else result.serving.get(size) for size in batch_sizes]
        table.add_row(
            result.cell,
            f"{result.hidden_size:,}",
            f"{result.runs[0].num_parameters:,}",
            f"{result.learning_rate:g}",
            _with_spread([run.nats for run in result.runs], ".4f"),
            _with_spread([run.tokens_per_second for run in result.runs], ",.0f"),
            *(show(speed, ",.0f") for speed in speeds),
            f"{result.runs[0].state_bytes:,}",
        )
    return table


def draw_comparison(results: Sequence[CellResult], title: str, path: Path) -> None:
    """Left: loss of every seed and the mean; right: how fast each cell trains. Best at the top."""
    shown = [result for result in ranked(results) if spread([run.nats for run in result.runs])[0] is not None]
    figure = new_figure(10.5, 1.6 + 0.42 * max(len(shown), 3))
    loss_axes, speed_axes = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    _draw_losses(loss_axes, shown)
    _draw_speeds(speed_axes, shown)
    loss_axes.set_yticks(range(len(shown)), [result.cell for result in shown], fontsize=10, color=INK)
    loss_axes.invert_yaxis()
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=12, fontweight="bold")
    save_figure(figure, path)


def _draw_losses(axes: Axes, shown: Sequence[CellResult]) -> None:
    for row, result in enumerate(shown):
        nats = [run.nats for run in result.runs if run.nats is not None]
        mean, deviation = spread(nats)
        if mean is None:
            continue
        axes.plot(nats, [row] * len(nats), "o", color=COLOURS[1], alpha=0.45, markersize=6, markeredgewidth=0)
        axes.errorbar(mean, row, xerr=deviation, fmt="|", color=COLOURS[0], markersize=14, markeredgewidth=2, capsize=3)
        axes.annotate(
            f"{mean:.3f}", (mean, row), (0, 9), textcoords="offset points", ha="center", fontsize=8, color=INK
        )
    tidy(axes, "validation loss: every seed, the mean, its spread", grid="x")
    axes.set_xlabel("nats per token")
    axes.margins(x=0.12)


def _draw_speeds(axes: Axes, shown: Sequence[CellResult]) -> None:
    speeds = [spread([run.tokens_per_second for run in result.runs])[0] or 0.0 for result in shown]
    axes.barh(range(len(shown)), speeds, height=0.55, color=COLOURS[1], alpha=0.75)
    for row, speed in enumerate(speeds):
        axes.annotate(f"{speed:,.0f}", (speed, row), (4, 0), textcoords="offset points", va="center", fontsize=8)
    tidy(axes, "training speed", grid="x")
    axes.set_xlabel("tokens per second")
    axes.margins(x=0.18)


def _with_spread(values: Sequence[float | None], form: str) -> str:
    mean, deviation = spread(values)
    if mean is None:
        return "diverged"
    return show(mean, form) if deviation is None else f"{show(mean, form)} ± {show(deviation, form)}"
