"""Shows a recording as a table of the sharpest units and as a heat map. It decides nothing about sharpness."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from rich.markup import escape
from rich.table import Table

from carousel_training.curve import INK
from carousel_training.studies.inspection import Recording, Trace, Unit, activation
from carousel_training.studies.plots import COLOURS, new_figure, save_figure, tidy
from carousel_training.studies.tables import new_table

MAX_SHOWN_TOKENS = 120
SHOWN_SWITCHES = 8
VISIBLE = {"\n": "↵", "\t": "→", " ": "␣", "\r": "↤"}


def unit_table(recording: Recording, units: Sequence[Unit]) -> Table:
    """Shows each unit with the tokens at which it switches on and off, the commonest first."""
    table = new_table("units that switch most sharply", ["unit"], ["sharpness", "decided", "mean jump", "switches"])
    table.add_column("on at")
    table.add_column("off at")
    for unit in units:
        series_T = activation(recording.raw[unit.name])[:, unit.index]
        turned_on = [recording.tokens[step] for step in unit.switches if series_T[step] > 0.5]
        turned_off = [recording.tokens[step] for step in unit.switches if series_T[step] <= 0.5]
        figures = (
            f"{unit.sharpness:.2f}",
            f"{100 * unit.decided:.0f} %",
            f"{unit.jump:.2f}",
            f"{len(unit.switches):,}",
        )
        table.add_row(escape(unit.label), *figures, _commonest(turned_on), _commonest(turned_off))
    return table


def plot_inspection(recording: Recording, units: Sequence[Unit], title: str, path: Path) -> None:
    """Plots surprise at the top, then one row per ranked unit, then one row per gate, the mean over its units. Time
    runs right.
    """
    num_shown = min(len(recording.tokens), MAX_SHOWN_TOKENS)
    unit_rows = np.array([activation(recording.raw[unit.name])[:num_shown, unit.index] for unit in units])
    means = np.array([activation(raw_TH)[:num_shown].mean(axis=1) for raw_TH in recording.raw.values()])
    width = 2.4 + 0.125 * num_shown
    heights = [1.1, 0.22 * max(len(units), 1), 0.22 * len(means)]
    figure = new_figure(max(width, 7.0), 1.5 + sum(heights))
    surprise_axes, unit_axes, mean_axes = figure.subplots(3, 1, sharex=True, height_ratios=heights)
    surprise_axes.bar(range(num_shown), recording.nats[:num_shown], width=0.8, color=COLOURS[0], alpha=0.8)
    surprise_axes.set_ylabel("nats")
    tidy(surprise_axes, "surprise")
    if len(units):
        _plot_rows(unit_axes, unit_rows, [unit.label for unit in units])
    tidy(unit_axes, "units by sharpness: off (pale) to on (dark)", grid=None)
    _plot_rows(mean_axes, means, list(recording.raw))
    tidy(mean_axes, "mean over all units of a gate or state vector", grid=None)
    mean_axes.set_xticks(range(num_shown), [visible(token) for token in recording.tokens[:num_shown]])
    is_long = max(len(token) for token in recording.tokens[:num_shown]) > 1
    mean_axes.tick_params(axis="x", labelsize=8, labelrotation=90 if is_long else 0, labelfontfamily="DejaVu Sans Mono")
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=12, fontweight="bold")
    save_figure(figure, path)


def visible(token: str) -> str:
    """Shows white space as a sign, and escapes what a font would read as mathematics."""
    return "".join(VISIBLE.get(character, character) for character in token).replace("$", r"\$")


def _plot_rows(axes: Axes, rows: Trace, labels: Sequence[str]) -> None:
    axes.imshow(rows, cmap="BuPu", vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(labels)), labels, fontsize=8, color=INK)


def _commonest(tokens: Sequence[str]) -> str:
    distinct = sorted(set(tokens), key=lambda token: (-tokens.count(token), token))[:SHOWN_SWITCHES]
    return escape(" ".join(visible(token) for token in distinct))
