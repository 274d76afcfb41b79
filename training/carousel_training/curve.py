"""Plots the loss curve of a run from its log. It knows the log's keys and nothing of training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

TRAIN_COLOUR = "#9db4c8"
VALID_COLOUR = "#c8432b"
INK = "#2b2f36"
Records = Sequence[dict[str, Any]]


def plot_curve(records: Records, title: str, path: Path) -> None:
    """Writes a PNG to `path`: nats per token over tokens, perplexity on the right, the learning rate below."""
    steps = [record for record in records if record["kind"] == "train"]
    evaluations = [record for record in records if record["kind"] == "evaluation"]
    figure = Figure(figsize=(9.0, 5.6), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    loss_axes, rate_axes = figure.subplots(2, 1, sharex=True, height_ratios=[5, 1])
    _plot_loss(loss_axes, steps, evaluations)
    _plot_rate(rate_axes, steps)
    loss_axes.set_title(title, loc="left", color=INK, fontsize=12, fontweight="bold", pad=10)
    for axes in (loss_axes, rate_axes):
        _tidy(axes)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png")
    temporary.replace(path)


def _plot_loss(axes: Axes, steps: Records, evaluations: Records) -> None:
    is_sampled = any(record.get("is_sampled") for record in steps)
    label = "training, against drawn words: too low" if is_sampled else "training"
    axes.plot(*_points(steps), color=TRAIN_COLOUR, linewidth=1.3, label=label)
    tokens, nats = _points(evaluations)
    axes.plot(tokens, nats, color=VALID_COLOUR, linewidth=2.0, marker="o", markersize=4, label="validation")
    axes.set_ylabel("nats per token", color=INK)
    _frame(axes, [record["nats"] for record in steps], nats)
    right = axes.secondary_yaxis("right", functions=(_perplexity, _nats))
    right.set_ylabel("perplexity", color=INK)
    right.tick_params(colors=INK, labelsize=9, length=0)
    right.spines["right"].set_visible(False)
    if evaluations:
        best = min(evaluations, key=lambda record: float(record["nats"]))
        _mark_best(axes, best)
    axes.legend(frameon=False, loc="upper right", labelcolor=INK)


def _mark_best(axes: Axes, best: dict[str, Any]) -> None:
    axes.axhline(best["nats"], color=VALID_COLOUR, linewidth=0.8, linestyle=(0, (4, 4)), alpha=0.7)
    text = f"best {best['nats']:.3f} nats, perplexity {best['perplexity']:.1f}"
    if best.get("bits_per_byte") is not None:
        text += f", {best['bits_per_byte']:.3f} bits per byte"
    axes.annotate(
        text,
        (0.01, best["nats"]),
        xycoords=("axes fraction", "data"),
        xytext=(0, -5),
        textcoords="offset points",
        va="top",
        color=VALID_COLOUR,
        fontsize=9.5,
    )


def _plot_rate(axes: Axes, steps: Records) -> None:
    tokens = [record["tokens"] for record in steps]
    rates = [record["learning_rate"] for record in steps]
    axes.fill_between(tokens, rates, color=TRAIN_COLOUR, alpha=0.35, linewidth=0)
    axes.plot(tokens, rates, color=TRAIN_COLOUR, linewidth=1.3)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("learning\nrate", color=INK)
    axes.set_xlabel("tokens", color=INK)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _points(records: Records) -> tuple[list[int], list[float]]:
    return [record["tokens"] for record in records], [record["nats"] for record in records]


def _frame(axes: Axes, train: list[float], valid: list[float]) -> None:
    """Chooses the axis range without most of the first steps, which fall from the log of the vocabulary."""
    values = sorted(train) + valid
    if not values:
        return
    low, high = min(values), max([*valid, *(train[1:] or train)])
    margin = 0.08 * max(high - low, 0.1)
    axes.set_ylim(low - 2 * margin, high + margin)


def _tidy(axes: Axes) -> None:
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#c4c8ce")


def _perplexity(nats: Any) -> Any:
    return np.exp(nats)


def _nats(perplexity: Any) -> Any:
    return np.log(np.maximum(perplexity, 1e-9))
