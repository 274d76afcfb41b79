"""The studies' printed tables: a text column first, figures to the right of it."""

import math
from collections.abc import Sequence

from rich.table import Table


def new_table(title: str, text_columns: Sequence[str], figure_columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", caption_justify="left")
    for name in text_columns:
        table.add_column(name)
    for name in figure_columns:
        table.add_column(name, justify="right")
    return table


def show(value: float | None, form: str) -> str:
    """Formats a figure, or a dash for None."""
    return "-" if value is None or not math.isfinite(value) else format(value, form)


def spread(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Returns mean and sample standard deviation over the runs.

    Both are None if any run has no figure; the deviation is None for a single run.
    """
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    if not numbers or len(numbers) < len(values):
        return None, None
    mean = math.fsum(numbers) / len(numbers)
    if len(numbers) == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((number - mean) ** 2 for number in numbers) / (len(numbers) - 1))
