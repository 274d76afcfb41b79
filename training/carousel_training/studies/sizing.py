"""Finds the hidden width at which a model has a wanted number of parameters, for fair comparisons of cells."""

from carousel_training.errors import SettingsError
from carousel_training.model import ModelConfig, RecurrentLM
from carousel_training.settings import ModelSettings

TOLERANCE = 0.02
KIND_MULTIPLE = 4  # widths that fill vector registers, preferred if near enough
MAX_HIDDEN = 16_384


def match_hidden_size(model: ModelSettings, vocabulary_size: int, num_parameters: int) -> int:
    """Returns the hidden size whose model is nearest to `num_parameters`, embedding and output included.

    Prefers a multiple of 4 within 2 %, otherwise any width that the cell takes. Raises SettingsError if there is none.
    """
    hidden_size = 0
    for multiple in (model.width_multiple,) if model.width_multiple > 1 else (KIND_MULTIPLE, 1):
        hidden_size = _nearest(model, vocabulary_size, num_parameters, multiple)
        if _error(model, vocabulary_size, num_parameters, hidden_size) <= TOLERANCE:
            return hidden_size
    raise SettingsError(
        f"no hidden size gives {model.cell} {num_parameters:,} parameters with {vocabulary_size:,} tokens; "
        f"the nearest, {hidden_size}, is {_error(model, vocabulary_size, num_parameters, hidden_size):.0%} off"
    )


def count_parameters(model: ModelSettings, vocabulary_size: int, hidden_size: int) -> int:
    sized = model.model_copy(update={"hidden_size": hidden_size})
    return RecurrentLM(ModelConfig.from_settings(sized, vocabulary_size)).num_parameters


def _nearest(model: ModelSettings, vocabulary_size: int, num_parameters: int, multiple: int) -> int:
    """Returns the nearer of the two widths around the target. Parameters grow with the width."""
    low, high = 1, 2
    while high * multiple < MAX_HIDDEN and count_parameters(model, vocabulary_size, high * multiple) < num_parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        is_small = count_parameters(model, vocabulary_size, middle * multiple) < num_parameters
        low, high = (middle, high) if is_small else (low, middle)
    widths = (low * multiple, high * multiple)
    return min(widths, key=lambda width: _error(model, vocabulary_size, num_parameters, width))


def _error(model: ModelSettings, vocabulary_size: int, num_parameters: int, hidden_size: int) -> float:
    return abs(count_parameters(model, vocabulary_size, hidden_size) / num_parameters - 1.0)
