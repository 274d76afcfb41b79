"""The style of the studies' pictures: a colour and dash per cell, quiet axes, files that appear as a whole."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from carousel_training.curve import INK

COLOURS = ("#c8432b", "#1f6f8b", "#e09f3e", "#3a7d44", "#7b4b94", "#6b7785", "#b5838d")
DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)))
GRID = "#e6e8eb"


def new_figure(width: float, height: float) -> Figure:
    """Makes a figure of a size in inches, with room for titles and legends."""
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def line_style(index: int) -> dict[str, Any]:
    """Returns arguments of `plot` for line number `index`. The first 21 styles differ."""
    dash = DASHES[index // len(COLOURS) % len(DASHES)]
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": dash, "linewidth": 1.6}


def line_styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    return {name: line_style(index) for index, name in enumerate(names)}


def tidy(axes: Axes, title: str = "", *, grid: str | None = "y") -> None:
    """Puts the title at the left, keeps only the frame's bottom, and draws a pale grid along `grid` (x, y, both or
    none).
    """
    axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold", pad=8)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#c4c8ce")
    axes.set_axisbelow(True)
    if grid == "both" or grid == "x":
        axes.grid(axis="x", color=GRID, linewidth=0.8)
    if grid == "both" or grid == "y":
        axes.grid(axis="y", color=GRID, linewidth=0.8)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG that replaces an earlier one in one move."""
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png")
    temporary.replace(path)
