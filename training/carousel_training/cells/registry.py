"""The cells by their names in settings, checkpoints and bundles."""

from carousel_training.cells.clockwork import ClockworkStack
from carousel_training.cells.elman import ElmanStack
from carousel_training.cells.gru import GRUStack
from carousel_training.cells.gru_2014 import GRU2014Stack
from carousel_training.cells.lstm import LSTMStack
from carousel_training.cells.lstm_1997 import LSTM1997Stack
from carousel_training.cells.lstm_coupled import CoupledLSTMStack
from carousel_training.cells.lstm_depth_gated import DepthGatedLSTMStack
from carousel_training.cells.lstm_peephole import PeepholeLSTMStack
from carousel_training.cells.lstm_peephole_dense import DensePeepholeLSTMStack
from carousel_training.cells.mingru import MinGRUStack
from carousel_training.cells.minlstm import MinLSTMStack
from carousel_training.cells.mlstm import MLSTMStack
from carousel_training.cells.residual import ResidualStack
from carousel_training.cells.rg_lru import RGLRUStack
from carousel_training.cells.slstm import SLSTMStack
from carousel_training.cells.stack import RecurrentStack, StackShape
from carousel_training.cells.tdnn import TimeDelayStack
from carousel_training.errors import SettingsError
from carousel_training.settings import CELLS_WITHOUT_BLOCKS

CELLS: dict[str, type[RecurrentStack]] = {
    "elman": ElmanStack,
    "lstm-1997": LSTM1997Stack,
    "lstm": LSTMStack,
    "lstm-peephole": PeepholeLSTMStack,
    "lstm-peephole-dense": DensePeepholeLSTMStack,
    "lstm-coupled": CoupledLSTMStack,
    "gru-2014": GRU2014Stack,
    "gru": GRUStack,
    "lstm-depth-gated": DepthGatedLSTMStack,
    "clockwork": ClockworkStack,
    "tdnn": TimeDelayStack,
    "minlstm": MinLSTMStack,
    "mingru": MinGRUStack,
    "rg-lru": RGLRUStack,
    "slstm": SLSTMStack,
    "mlstm": MLSTMStack,
}


def build_stack(cell: str, block: str, shape: StackShape) -> RecurrentStack:
    """Builds a plain or a residual stack. Raises SettingsError for impossible combinations."""
    if block == "plain":
        return CELLS[cell](shape)
    if cell in CELLS_WITHOUT_BLOCKS:
        raise SettingsError(f"model.block: {cell} cannot be in residual blocks: {CELLS_WITHOUT_BLOCKS[cell]}")
    return ResidualStack(CELLS[cell], shape)
