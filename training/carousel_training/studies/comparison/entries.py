"""Who takes part in a comparison: cells at the same number of parameters, and the twin of one of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from carousel_training.settings import Settings
from carousel_training.studies.sizing import match_hidden_size

TWIN_SUFFIX = "-again"
TWIN_SEEDS = 100_000  # the twin's seeds are as much higher


@dataclass(frozen=True, slots=True)
class Entry:
    """`settings` has the cell at its width. The twin is a cell that takes part twice, under another name, with draws
    and seeds of its own: what sets the two apart is noise."""

    name: str
    settings: Settings
    is_twin: bool = False

    @property
    def cell(self) -> str:
        return self.settings.model.cell

    @property
    def first_seed(self) -> int:
        return TWIN_SEEDS if self.is_twin else 0


def make_entries(
    cells: Sequence[str], settings: Settings, num_parameters: int, vocabulary_size: int, *, has_twin: bool
) -> list[Entry]:
    """One for each cell, and a twin of the LSTM, or of the first cell where the LSTM does not take part."""
    entries = [Entry(cell, _size(settings, cell, num_parameters, vocabulary_size)) for cell in cells]
    if has_twin:
        model = next((entry for entry in entries if entry.cell == "lstm"), entries[0])
        entries.append(Entry(f"{model.name}{TWIN_SUFFIX}", model.settings, is_twin=True))
    return entries


def _size(settings: Settings, cell: str, num_parameters: int, vocabulary_size: int) -> Settings:
    model = settings.model.model_copy(update={"cell": cell})
    width = match_hidden_size(model, vocabulary_size, num_parameters)
    return settings.model_copy(update={"model": model.model_copy(update={"hidden_size": width})})
