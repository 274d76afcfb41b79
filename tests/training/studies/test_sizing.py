"""Models get the wanted number of parameters."""

import pytest

from carousel_training.cells.registry import CELLS
from carousel_training.errors import SettingsError
from carousel_training.settings import ModelSettings
from carousel_training.studies.sizing import TOLERANCE, count_parameters, match_hidden_size


@pytest.mark.parametrize("cell", sorted(CELLS))
@pytest.mark.parametrize("num_layers", [1, 2])
def test_every_cell_reaches_the_number(cell: str, num_layers: int) -> None:
    """The width gives the wanted number within 2 %."""
    settings = ModelSettings.model_validate({"cell": cell, "num_layers": num_layers, "embedding_size": 16})
    width = match_hidden_size(settings, 50, 80_000)
    assert count_parameters(settings, 50, width) == pytest.approx(80_000, rel=TOLERANCE)


def test_a_number_below_the_embedding_is_refused() -> None:
    """No width makes a model smaller than its embedding, and the error says how far off the nearest is."""
    with pytest.raises(SettingsError, match=r"no hidden size gives lstm 1,000 parameters with 200 tokens"):
        match_hidden_size(ModelSettings(embedding_size=64), 200, 1000)
