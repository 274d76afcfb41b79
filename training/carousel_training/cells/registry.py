"""The cells by the names that settings, checkpoints and bundles call them."""

from carousel_training.cells.elman import ElmanStack
from carousel_training.cells.gru import GRUStack
from carousel_training.cells.lstm import LSTMStack
from carousel_training.cells.stack import RecurrentStack

CELLS: dict[str, type[RecurrentStack]] = {
    "elman": ElmanStack,
    "lstm": LSTMStack,
    "gru": GRUStack,
}
