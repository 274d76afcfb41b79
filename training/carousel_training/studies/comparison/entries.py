"""The entries of a comparison: cells with the same number of parameters, and the twin of one of them.

A cell has the name of the settings. `+residual` after it puts its layer in a residual block.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from carousel_training.cells.registry import CELLS
from carousel_training.settings import CELLS_WITHOUT_BLOCKS, Settings
from carousel_training.studies.sizing import match_hidden_size

TWIN_SUFFIX = "-again"
RESIDUAL_SUFFIX = "+residual"
# The default: every cell plainly, the cells that their papers put into such blocks, and the LSTM as a control.
USUAL = (*CELLS, *(f"{cell}{RESIDUAL_SUFFIX}" for cell in ("lstm", "minlstm", "mingru", "rg-lru")))
TWIN_SEEDS = 100_000  # the twin's seeds are higher by this


@dataclass(frozen=True, slots=True)
class Entry:
    """`settings` has the cell at its width; `name` is the contestant's, except for the twin.

    The twin is a cell that takes part twice, under another name and with its own draws and seeds. The two differ by
    noise.
    """

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
    """Makes one for each cell, and a twin of the LSTM, or of the first cell without an LSTM."""
    entries = [Entry(name, _size(settings, name, num_parameters, vocabulary_size)) for name in names]
    if has_twin:
        model = next((entry for entry in entries if entry.name == "lstm"), entries[0])
        entries.append(Entry(f"{model.name}{TWIN_SUFFIX}", model.settings, is_twin=True))
    return entries


def contestants() -> tuple[str, ...]:
    """Returns all names: each cell plainly, and each cell that can be in residual blocks."""
    return (*CELLS, *(f"{cell}{RESIDUAL_SUFFIX}" for cell in CELLS if cell not in CELLS_WITHOUT_BLOCKS))


def _size(settings: Settings, contestant: str, num_parameters: int, vocabulary_size: int) -> Settings:
    cell, suffix, _ = contestant.partition(RESIDUAL_SUFFIX)
    model = settings.model.model_copy(update={"cell": cell, "block": "residual" if suffix else "plain"})
    width = match_hidden_size(model, vocabulary_size, num_parameters)
    return settings.model_copy(update={"model": model.model_copy(update={"hidden_size": width})})
