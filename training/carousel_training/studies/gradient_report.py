"""The results of a gradient study, as tables and as one picture of vanishing and exploding gradients."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from rich.table import Table

from carousel_training.curve import INK
from carousel_training.studies.gradients import GradientResult, Reach
from carousel_training.studies.plots import COLOURS, line_style, line_styles, new_figure, save_figure, tidy
from carousel_training.studies.tables import new_table, show

LOWEST, HIGHEST = 1e-12, 1e6  # the plots' range; values beyond it have vanished or exploded


def reach_table(results: Sequence[GradientResult], distances: Sequence[int]) -> Table:
    """Shows the remaining share of the gradient, fresh and trained."""
    arms = ("fresh", "trained", "unclipped")
    table = new_table("dL/dh(t-k) relative to k = 0", ["cell"], [f"{arm} k={k}" for arm in arms for k in distances])
    for result in results:
        reaches = (result.fresh, result.clipped, result.unclipped)
        table.add_row(result.cell, *(show(reach.hidden_K[k], ".1e") for reach in reaches for k in distances))
    return table


def clipping_table(results: Sequence[GradientResult], clip_norm: float) -> Table:
    """Shows what clipping cuts, and its effect on the weights' change and the loss."""
    columns = ["median |g|", "largest |g|", "clipped steps", "largest update", "unclipped", "final nats", "unclipped"]
    table = new_table(f"a short training with gradients clipped at {clip_norm:g}, and without", ["cell"], columns)
    for result in results:
        with_clip, without = result.with_clip, result.without_clip
        share = sum(norm > clip_norm for norm in with_clip.gradient_norms) / max(len(with_clip.gradient_norms), 1)
        table.add_row(
            result.cell,
            show(statistics.median(with_clip.gradient_norms), ".2f"),
            show(max(with_clip.gradient_norms), ".2f"),
            f"{100 * share:.0f} %",
            show(max(with_clip.update_norms), ".3f"),
            show(max(without.update_norms), ".3f"),
            show(with_clip.final_nats, ".3f"),
            show(without.final_nats, ".3f"),
        )
    return table


def variant_table(forget: Mapping[float, Reach], gains: Mapping[float, Reach], distances: Sequence[int]) -> Table:
    """Shows the two values that decide at the start: the LSTM's forget bias and the scale of an Elman net's matrix."""
    table = new_table("dL/dh(t-k) of fresh cells relative to k = 0", ["variant"], [f"k={k}" for k in distances])
    labelled = {f"lstm, forget bias {bias:g}": reach for bias, reach in forget.items()}
    labelled |= {f"elman, recurrent matrix x {gain:g}": reach for gain, reach in gains.items()}
    for label, reach in labelled.items():
        table.add_row(label, *(show(reach.hidden_K[k], ".1e") for k in distances))
    return table


def plot_gradients(
    results: Sequence[GradientResult],
    variants: tuple[Mapping[float, Reach], Mapping[float, Reach]],
    clip_norm: float,
    path: Path,
) -> None:
    """Plots all cells fresh, all cells trained, the two values of `variants`, and what clipping cuts and changes."""
    figure = new_figure(14.5, 9.5)
    places = figure.subplot_mosaic("FFFTTT;KKNNUU")
    styles = line_styles([result.cell for result in results])
    for place, title, reaches in (
        ("F", "at initialisation", {result.cell: result.fresh for result in results}),
        ("T", "after a short training, clipped", {result.cell: result.clipped for result in results}),
    ):
        for cell, reach in reaches.items():
            _plot_reach(places[place], reach, cell, styles[cell])
        _finish(places[place], title, [*reaches.values()])
    places["T"].legend(frameon=False, fontsize=8.5, labelcolor=INK, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _plot_knobs(places["K"], *variants)
    _plot_spans(places["N"], results, "gradient_norms", "gradient norms before clipping")
    places["N"].axvline(clip_norm, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    _plot_spans(places["U"], results, "update_norms", "the weights' change in one step")
    places["U"].legend(frameon=False, fontsize=8.5, labelcolor=INK, loc="center left", bbox_to_anchor=(1.0, 0.5))
    title = "how far back a loss reaches: |dL/dh(t-k)| relative to k = 0"
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=13, fontweight="bold")
    save_figure(figure, path)


def _plot_reach(axes: Axes, reach: Reach, label: str, style: Mapping[str, object]) -> None:
    points = [(k, norm) for k, norm in enumerate(reach.hidden_K) if norm > 0.0 and math.isfinite(norm)]
    if len(points) == 1:  # only k = 0: the cell never reads its own output
        axes.plot(*points[0], marker="o", label=label, **{**style, "linestyle": "none"})  # type: ignore[arg-type]
        return
    axes.plot([k for k, _ in points], [norm for _, norm in points], label=label, **style)  # type: ignore[arg-type]


def _finish(axes: Axes, title: str, reaches: Sequence[Reach]) -> None:
    norms = [norm for reach in reaches for norm in reach.hidden_K if norm > 0.0 and math.isfinite(norm)]
    axes.set_yscale("log")
    axes.set_ylim(max(min(norms) / 3.0, LOWEST), min(max(norms) * 3.0, HIGHEST))
    axes.axhline(1.0, color="#c4c8ce", linewidth=0.8, zorder=0)
    axes.set_xlabel("k, steps back")
    tidy(axes, title)


def _plot_knobs(axes: Axes, forget: Mapping[float, Reach], gains: Mapping[float, Reach]) -> None:
    for index, (bias, reach) in enumerate(forget.items()):
        _plot_reach(axes, reach, f"lstm, forget bias {bias:g}", line_style(index))
    for index, (gain, reach) in enumerate(gains.items()):
        _plot_reach(axes, reach, f"elman, matrix x {gain:g}", {**line_style(index), "linestyle": (0, (4, 2))})
    _finish(axes, "two knobs at initialisation", [*forget.values(), *gains.values()])
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, loc="lower right")


def _plot_spans(axes: Axes, results: Sequence[GradientResult], field: str, title: str) -> None:
    """Plots a line from the median to the largest norm of all steps, for both arms of each cell."""
    for row, result in enumerate(results):
        for training, colour, shift in ((result.with_clip, COLOURS[1], -0.16), (result.without_clip, COLOURS[0], 0.16)):
            norms: tuple[float, ...] = getattr(training, field)
            low, high = statistics.median(norms), max(norms)
            axes.plot([low, high], [row + shift] * 2, color=colour, linewidth=2.5, solid_capstyle="round")
            axes.plot(high, row + shift, "o", color=colour, markersize=4.5)
    axes.plot([], [], color=COLOURS[1], marker="o", markersize=4.5, label="clipped")
    axes.plot([], [], color=COLOURS[0], marker="o", markersize=4.5, label="not clipped")
    axes.set_yticks(range(len(results)), [result.cell for result in results], fontsize=8.5, color=INK)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("median to largest")
    tidy(axes, title, grid="x")
