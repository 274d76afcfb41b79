"""This module makes the entries of a comparison: cells with the same number of parameters, and the twin of one.

A cell has its name from the settings. The suffix `+residual` puts its layer into a residual block.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from carousel_training.cells.registry import CELLS
from carousel_training.settings import CELLS_WITHOUT_BLOCKS, Settings
from carousel_training.studies.sizing import match_hidden_size

TWIN_SUFFIX = "-again"
RESIDUAL_SUFFIX = "+residual"
# The default: every cell alone, in blocks the cells whose papers use such blocks, and the LSTM as a control.
USUAL = (*CELLS, *(f"{cell}{RESIDUAL_SUFFIX}" for cell in ("lstm", "minlstm", "mingru", "rg-lru")))
TWIN_SEEDS = 100_000  # the first seed of a twin


@dataclass(frozen=True, slots=True)
class Entry:
    """Is one entry. `settings` has the cell with its width. The twin enters a cell a second time, under another name,
    with its own draws and seeds, so all differences between the two are noise."""

    name: str
    settings: Settings
    is_twin: bool = False

    @property
    def cell(self) -> str:
        return self.settings.model.cell

    @property
    def contestant(self) -> str:
        return self.cell + (RESIDUAL_SUFFIX if self.settings.model.block == "residual" else "")

    @property
    def first_seed(self) -> int:
        return TWIN_SEEDS if self.is_twin else 0


def make_entries(
    names: Sequence[str], settings: Settings, num_parameters: int, vocabulary_size: int, *, has_twin: bool
) -> list[Entry]:
    """Makes an entry for each cell, and a twin of the LSTM, or of the first cell if the LSTM does not take part."""
    entries = [Entry(name, _size(settings, name, num_parameters, vocabulary_size)) for name in names]
    if has_twin:
        model = next((entry for entry in entries if entry.name == "lstm"), entries[0])
        entries.append(Entry(f"{model.name}{TWIN_SUFFIX}", model.settings, is_twin=True))
    return entries


def contestants() -> tuple[str, ...]:
    """Returns all names: each cell alone, and in residual blocks each cell that can be in them."""
    return (*CELLS, *(f"{cell}{RESIDUAL_SUFFIX}" for cell in CELLS if cell not in CELLS_WITHOUT_BLOCKS))


def _size(settings: Settings, contestant: str, num_parameters: int, vocabulary_size: int) -> Settings:
    cell, suffix, _ = contestant.partition(RESIDUAL_SUFFIX)
    model = settings.model.model_copy(update={"cell": cell, "block": "residual" if suffix else "plain"})
    width = match_hidden_size(model, vocabulary_size, num_parameters)
    return settings.model_copy(update={"model": model.model_copy(update={"hidden_size": width})})
