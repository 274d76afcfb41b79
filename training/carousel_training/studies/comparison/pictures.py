"""The pictures of a comparison, plotted from its JSON alone."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.ticker import MaxNLocator

from carousel_training.curve import INK
from carousel_training.studies.plots import COLOURS, line_styles, new_figure, save_figure, tidy

Study = Mapping[str, Any]


def plot_all(study: Study, directory: Path) -> list[str]:
    """Returns the names of the written files. Leaves out a picture without anything to show."""
    plotted = []
    for name, plot in PICTURES.items():
        if plot(study, directory / name):
            plotted.append(name)
    return plotted


def ordered_names(study: Study) -> list[str]:
    """Returns the cells by their mean test loss, best first."""
    finals = study["analysis"]["finals"]
    names = [cell["name"] for cell in study["cells"] if cell["name"] in finals]
    return sorted(names, key=lambda name: float(finals[name]["mean"]))


def plot_tiers(study: Study, path: Path) -> bool:
    """Plots every seed, the mean and its interval, with a colour for each tier and the noise floor as a grey bar."""
    names, analysis = ordered_names(study), study["analysis"]
    if not names:
        return False
    runs = {cell["name"]: [run["test_nats"] for run in cell["runs"]] for cell in study["cells"]}
    figure = new_figure(9.0, 1.5 + 0.36 * max(len(names), 4))
    axes = figure.subplots()
    floor = (analysis["noise_floor"] or {}).get("floor")
    if floor is not None:
        best = analysis["finals"][names[0]]["mean"]
        axes.axvspan(best, best + floor, color=COLOURS[5], alpha=0.18, linewidth=0, label="noise floor")
    for row, name in enumerate(names):
        colour = COLOURS[_tier_of(analysis["tiers"], name) % len(COLOURS)]
        final = analysis["finals"][name]
        axes.plot(runs[name], [row] * len(runs[name]), "o", color=colour, alpha=0.4, markersize=5, markeredgewidth=0)
        axes.errorbar(
            final["mean"],
            row,
            xerr=final["half_width"],
            fmt="|",
            color=colour,
            markersize=13,
            markeredgewidth=2,
            capsize=3,
        )
    axes.set_yticks(range(len(names)), names, fontsize=9.5, color=INK)
    axes.invert_yaxis()
    axes.set_xlabel("test loss, nats per character")
    tidy(axes, "Every seed, the mean, its 95 % interval; one colour for each tier", grid="x")
    if floor is not None:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    save_figure(figure, path)
    return True


def plot_pairs(study: Study, path: Path) -> bool:
    """Plots which cells differ reliably, as a square of cells in the order of their means."""
    names, pairs = ordered_names(study), study["analysis"]["pairs"]
    if len(names) < 2 or not study["analysis"]["tiers"]:
        return False
    places = {name: place for place, name in enumerate(names)}
    shown = np.full((len(names), len(names)), np.nan)
    for pair in pairs:
        one, other = places[pair["better"]], places[pair["worse"]]
        shown[one, other] = shown[other, one] = 1.0 if pair["is_told_apart"] else 0.0
    size = 2.2 + 0.3 * len(names)
    figure = new_figure(size + 1.0, size)
    axes = figure.subplots()
    axes.imshow(shown, cmap=ListedColormap(["#dfe4ea", COLOURS[1]]), vmin=0.0, vmax=1.0)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=9)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    tidy(axes, "Dark: told apart. Pale: not", grid=None)
    save_figure(figure, path)
    return True


def plot_curves(study: Study, path: Path) -> bool:
    """Plots the same losses over tokens and over seconds of one core."""
    names, analysis = ordered_names(study), study["analysis"]
    curves = {name: [point for point in analysis["equal_tokens"][name] if point] for name in names}
    names = [name for name in names if len(curves[name]) > 1]
    if not names:
        return False
    styles, figure = _styles(study), new_figure(11.0, 5.4)
    by_tokens, by_seconds = figure.subplots(1, 2, sharey=True)
    for name in names:
        tokens = [point["tokens"] for point in curves[name]]
        nats = [point["mean"] for point in curves[name]]
        by_tokens.plot(tokens, nats, marker="o", markersize=3.5, label=name, **styles[name])
        by_seconds.plot(
            *_columns(analysis["equal_seconds"]["curves"][name]), marker="o", markersize=3.5, **styles[name]
        )
    _label_log(by_tokens, "Equal tokens", "training tokens", study["plan"]["mark_tokens"])
    _label_log(by_seconds, "Equal seconds", "seconds of one core", analysis["equal_seconds"]["seconds"])
    by_tokens.set_ylabel("test loss, nats per character")
    figure.legend(loc="outside right center", frameon=False, fontsize=9, labelcolor=INK)
    save_figure(figure, path)
    return True


def plot_best_of(study: Study, path: Path) -> bool:
    """Plots the expected best of n trials of the first rung."""
    curves = study["analysis"]["best_of"]
    names = sorted(curves, key=lambda name: float(curves[name][-1]))
    if not names:
        return False
    figure, styles = new_figure(9.0, 5.0), _styles(study)
    axes = figure.subplots()
    for name in names:
        axes.plot(range(1, len(curves[name]) + 1), curves[name], label=name, **styles[name])
    firsts, bests = [curves[name][0] for name in names], [curves[name][-1] for name in names]
    axes.set_ylim(min(bests) - 0.03, min(max(firsts) + 0.05, max(bests) + 1.0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trials")
    axes.set_ylabel("expected validation loss of the best, nats")
    tidy(axes, "Best of n trials on the first rung", grid="both")
    figure.legend(loc="outside right center", frameon=False, fontsize=9, labelcolor=INK)
    save_figure(figure, path)
    return True


def plot_lanes(study: Study, path: Path) -> bool:
    """Plots every lane of every seed. A lane that is stuck would stand far to the right."""
    names = ordered_names(study)
    if not names:
        return False
    runs = {cell["name"]: cell["runs"] for cell in study["cells"]}
    figure = new_figure(9.0, 1.5 + 0.34 * max(len(names), 4))
    axes = figure.subplots()
    for row, name in enumerate(names):
        lanes = [nats for run in runs[name] for nats in run["test_lanes"]]
        axes.plot(lanes, [row] * len(lanes), "|", color=COLOURS[1], alpha=0.35, markersize=11)
    axes.set_yticks(range(len(names)), names, fontsize=9.5, color=INK)
    axes.invert_yaxis()
    axes.set_xlabel("test loss of a lane, nats per character")
    tidy(axes, "Every lane of every seed", grid="x")
    save_figure(figure, path)
    return True


PICTURES: Mapping[str, Callable[[Study, Path], bool]] = {
    "tiers.png": plot_tiers,
    "pairs.png": plot_pairs,
    "curves.png": plot_curves,
    "best_of.png": plot_best_of,
    "lanes.png": plot_lanes,
}


def _styles(study: Study) -> dict[str, dict[str, Any]]:
    """Returns the same line for the same entry in every picture."""
    every = [*study["cells"], study["twin"]] if study["twin"] else study["cells"]
    return line_styles([entry["name"] for entry in every])


def _label_log(axes: Axes, title: str, label: str, ticks: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.set_xticks(ticks, minor=False)
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(lambda value, place: f"{value:,.0f}" if value >= 100.0 else f"{value:.2g}")
    tidy(axes, title, grid="both")


def _columns(points: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    return [point[0] for point in points], [point[1] for point in points]


def _tier_of(found: Sequence[Sequence[str]], name: str) -> int:
    return next((number for number, tier in enumerate(found) if name in tier), 0)
