"""Shows accuracy against gap, as one table per task and as one picture with a heat map per task."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from rich.table import Table

from carousel_training.curve import INK
from carousel_training.studies.plots import new_figure, save_figure, tidy
from carousel_training.studies.recall import SOLVED, RecallResult
from carousel_training.studies.recall_tasks import TASKS
from carousel_training.studies.tables import new_table


def recall_table(results: Sequence[RecallResult]) -> Table:
    """Shows a row per task and cell. Green: solved; red: nearer to chance than to perfect."""
    gaps = list(results[0].accuracy)
    table = new_table("accuracy by gap", ["task", "cell"], [f"gap {gap}" for gap in gaps])
    for index, result in enumerate(results):
        is_first = index == 0 or results[index - 1].task != result.task
        if is_first and index:
            table.add_section()
        chance = TASKS[result.task].chance
        label = f"{result.task} [dim](chance {chance:.0%})[/]" if is_first else ""
        table.add_row(label, result.cell, *(_coloured(result.accuracy[gap], chance) for gap in gaps))
    return table


def plot_recall(results: Sequence[RecallResult], path: Path) -> None:
    """Plots one panel per task: cells down, gaps across, accuracy from chance (pale) to 1 (dark)."""
    tasks, cells = list(dict.fromkeys(r.task for r in results)), list(dict.fromkeys(r.cell for r in results))
    gaps = list(results[0].accuracy)
    found = {(result.task, result.cell): result.accuracy for result in results}
    figure = new_figure(1.6 + 3.4 * len(tasks), 1.5 + 0.36 * len(cells))
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for axes, task in zip(panels, tasks, strict=True):
        rows = np.array([[found[task, cell][gap] for gap in gaps] for cell in cells])
        _plot_panel(axes, task, rows)
        axes.set_xticks(range(len(gaps)), [str(gap) for gap in gaps])
        axes.set_xlabel("gap, steps")
    panels[0].set_yticks(range(len(cells)), cells, fontsize=10, color=INK)
    figure.suptitle("what is still known after a gap", x=0.01, ha="left", color=INK, fontsize=12, fontweight="bold")
    save_figure(figure, path)


def _plot_panel(axes: Axes, task: str, rows: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> None:
    chance = TASKS[task].chance
    axes.imshow(rows, cmap="BuPu", vmin=chance, vmax=1.08, aspect="auto")
    for (row, column), accuracy in np.ndenumerate(rows):
        is_dark = accuracy > chance + 0.6 * (1.0 - chance)
        axes.text(
            column,
            row,
            f"{100 * accuracy:.0f}",
            ha="center",
            va="center",
            fontsize=7.5,
            color="white" if is_dark else INK,
        )
    tidy(axes, f"{task}, chance {100 * chance:.0f} %", grid=None)
    axes.spines["bottom"].set_visible(False)


def _coloured(accuracy: float, chance: float) -> str:
    colour = "green" if accuracy >= SOLVED else "red" if accuracy < (1.0 + chance) / 2 else "yellow"
    return f"[{colour}]{100 * accuracy:.0f}[/]"
