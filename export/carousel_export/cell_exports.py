"""The table of cells: how each is exported, by the name that settings and bundles call it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from carousel_export import headed_cells as headed
from carousel_export import looped_cells as looped
from carousel_export import quantized_stacks as quantized
from carousel_export.errors import PrecisionRefused
from carousel_export.graph_builder import GraphBuilder
from carousel_export.looped_stacks import (
    BuildInputs,
    BuildMask,
    BuildStep,
    LayeredCell,
    LoopedLayer,
    build_gate_inputs,
    build_mask,
    read_layers,
    read_library_layers,
)
from carousel_export.native_stacks import Operator, read_layer, read_library
from carousel_export.quantized_stacks import QuantizedCell
from carousel_export.window_stack import build_tdnn
from carousel_training.cells.clockwork import ClockworkLayer
from carousel_training.cells.lstm_1997 import LSTM1997Layer
from carousel_training.cells.lstm_depth_gated import DepthGatedLSTMLayer
from carousel_training.cells.lstm_peephole_dense import DensePeepholeLSTMLayer
from carousel_training.cells.mingru import MinGRULayer
from carousel_training.cells.minlstm import MinLSTMLayer
from carousel_training.cells.mlstm import MLSTMLayer
from carousel_training.cells.rg_lru import RGLRULayer
from carousel_training.cells.slstm import SLSTMLayer
from carousel_training.cells.stack import RecurrentStack
from carousel_training.model import ModelConfig

Layer = TypeVar("Layer")
# Builds a whole stack on its embedded input [T,B,X] and returns its output [T,B,H].
BuildStack = Callable[[GraphBuilder, RecurrentStack, str], str]


@dataclass(frozen=True, slots=True)
class CellExport:
    """How a cell becomes a graph: in float32, and with eight-bit products if the cell has them."""

    build: BuildStack
    quantized: QuantizedCell | None = None


def _loop(
    read: Callable[[RecurrentStack], Sequence[Layer]],
    build_inputs: BuildInputs[Layer],
    step: BuildStep[Layer],
    parts: tuple[str, ...] = ("h",),
    *,
    mask: BuildMask = build_mask,
    num_outputs: int = 1,
) -> CellExport:
    """A cell that runs one loop per layer."""
    return CellExport(LayeredCell(read, LoopedLayer(step, build_inputs, parts, num_outputs).build, mask).build)


# ONNX orders the gates i o f c and z r h; torch orders them i f g o and r z n. ONNX's z is the share that is kept, and
# so is torch's; in the equations of gru-2014 here, which are Cho et al.'s, z is the share that is new.
_LSTM = Operator("LSTM", ("h", "c"), read_library((0, 3, 1, 2)))
_PEEPHOLES = Operator("LSTM", ("h", "c"), read_layer(("i", "o", "f", "g"), (1, 1, 1, 1)))
_COUPLED = Operator("LSTM", ("h", "c"), read_layer(("i", "o", "", "g"), (1, 1, 1, 1)), {"input_forget": 1})
_GRU = Operator("GRU", ("h",), read_library((1, 0, 2)), {"linear_before_reset": 1})
_GRU_2014 = Operator("GRU", ("h",), read_layer(("z", "r", "n"), (-1, 1, 1)), {"linear_before_reset": 0})
_HC = ("h", "c")

EXPORTS = {
    "elman": _loop(read_library_layers, build_gate_inputs, looped.step_elman),
    "lstm-1997": _loop(read_layers(LSTM1997Layer), build_gate_inputs, looped.step_lstm_1997, _HC),
    "lstm": CellExport(_LSTM.build, QuantizedCell(_LSTM, quantized.join_bias, quantized.step_lstm)),
    "lstm-peephole": CellExport(_PEEPHOLES.build),
    "lstm-peephole-dense": _loop(
        read_layers(DensePeepholeLSTMLayer), build_gate_inputs, looped.step_dense_peepholes, _HC
    ),
    "lstm-coupled": CellExport(_COUPLED.build),
    "gru": CellExport(_GRU.build, QuantizedCell(_GRU, quantized.separate_bias, quantized.step_gru)),
    "gru-2014": CellExport(_GRU_2014.build, QuantizedCell(_GRU_2014, quantized.join_bias, quantized.step_gru_2014)),
    "lstm-depth-gated": _loop(
        read_layers(DepthGatedLSTMLayer), looped.build_depth_gated_inputs, looped.step_depth_gated, _HC, num_outputs=2
    ),
    "clockwork": _loop(read_layers(ClockworkLayer), build_gate_inputs, looped.step_clockwork, mask=looped.build_due),
    "tdnn": CellExport(build_tdnn),
    "minlstm": _loop(read_layers(MinLSTMLayer), looped.build_minlstm_inputs, looped.step_scan),
    "mingru": _loop(read_layers(MinGRULayer), looped.build_mingru_inputs, looped.step_scan),
    "rg-lru": _loop(read_layers(RGLRULayer), headed.build_rg_lru_inputs, looped.step_scan),
    "slstm": CellExport(
        LayeredCell(read_layers(SLSTMLayer), headed.build_slstm_layer, headed.build_wide_mask(3)).build
    ),
    "mlstm": CellExport(
        LayeredCell(read_layers(MLSTMLayer), headed.build_mlstm_layer, headed.build_wide_mask(3, 4)).build
    ),
}
INT8_CELLS = tuple(cell for cell, export in EXPORTS.items() if export.quantized is not None)


def find_quantized(config: ModelConfig) -> QuantizedCell:
    """Returns the eight-bit export of a model's cell. Raises PrecisionRefused for a model that has none."""
    found = EXPORTS[config.cell].quantized
    if found is None:
        raise PrecisionRefused(f"int8 is for the cells {', '.join(INT8_CELLS)}; this model's cell is {config.cell}")
    if config.block != "plain":
        raise PrecisionRefused(f"int8 is for plain stacks; this model's blocks are {config.block}")
    return found
