"""This module is the sLSTM (Beck et al. 2024, xLSTM): exponential gates, a normaliser, recurrent matrices by head."""

import torch
from torch import nn
from torch.nn import functional

from carousel.bundle.layout import StateTensor
from carousel_training.cells.dropout import drop_weights
from carousel_training.cells.heads import block_columns, block_product
from carousel_training.cells.initial import initialise_input, initialise_state
from carousel_training.cells.layered_stack import LayeredStack, LayerRun, StackLayer
from carousel_training.cells.scalar_memory import run_scalar_memory
from carousel_training.cells.stack import StackShape, State, Step

Tensor = torch.Tensor
FORGET_BIASES = (3.0, 6.0)
NOTHING = -1e30  # the logarithm of the content of an empty memory


class SLSTMLayer(StackLayer):
    """Computes, with s the logistic function, * and / element-wise, x_t [X], all states [H], each W [H,X], each R [H,H]
    in N blocks along the diagonal, a_z, a_i, a_f, a_o the sums W x_t + R h_{t-1} + b:

    z = tanh(a_z),  i = exp(a_i),  f = s(a_f),  o = s(a_o)
    c_t = f * c_{t-1} + i * z,  n_t = f * n_{t-1} + i,  h_t = o * c_t / n_t

    The code divides c and n by exp(m_t), m_t = max(log f + m_{t-1}, a_i), so no power overflows: i and f become exp(a_i
    - m_t) and exp(log f + m_{t-1} - m_t), one of which is 1, and n never falls below 1. m starts at -1e30, which makes
    the first token the whole memory.

    The forget gate is the logistic one of the paper's two. b_f starts spread over 3 to 6 in each head, R near 0.
    `weight_hh` [4H,D] holds the blocks of R_z, R_i, R_f, R_o, each with D = H / N columns.
    """

    parts = ("h", "c", "n", "m")

    def __init__(self, shape: StackShape, layer: int) -> None:
        super().__init__(shape, layer)
        size, head_size = shape.hidden_size, shape.head_size
        self.weight_ih = nn.Parameter(torch.empty(4 * size, self.input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * size, head_size))
        self.bias = nn.Parameter(torch.zeros(4 * size))
        initialise_input(self.weight_ih)
        initialise_state(self.weight_hh)
        with torch.no_grad():
            by_head_ND = self.bias[2 * size : 3 * size].view(shape.num_heads, head_size)
            by_head_ND.copy_(torch.linspace(*FORGET_BIASES, head_size))

    @property
    def layout(self) -> tuple[StateTensor, ...]:
        initial = {"m": NOTHING}
        size = (self.shape.hidden_size,)
        return tuple(StateTensor(part, size, "float32", initial.get(part, 0.0)) for part in self.parts)

    def sequence(self, x_TBX: Tensor, state: State, below_TBH: Tensor | None) -> LayerRun:
        pre_TBG = functional.linear(x_TBX, self.weight_ih, self.bias)
        dropped = drop_weights(self.weight_hh, self.shape.weight_drop, is_training=self.training)
        y_TBH, *memory = run_scalar_memory(pre_TBG, state, block_columns(dropped, self.shape.num_heads, 4))
        return LayerRun(y_TBH, (y_TBH[-1], *memory))

    def step(self, x_BX: Tensor, state: State, below_BH: Tensor | None) -> Step:
        h_BH, c_BH, n_BH, m_BH = state
        sums_BG = functional.linear(x_BX, self.weight_ih, self.bias)
        sums_BG = sums_BG + block_product(h_BH, self.weight_hh, self.shape.num_heads, 4)
        a_z, a_i, a_f, a_o = sums_BG.chunk(4, dim=1)
        kept_BH = functional.logsigmoid(a_f) + m_BH
        m_BH = torch.maximum(kept_BH, a_i)
        gates = {"z": torch.tanh(a_z), "i": torch.exp(a_i - m_BH), "f": torch.exp(kept_BH - m_BH)}
        gates["o"] = torch.sigmoid(a_o)
        c_BH = gates["f"] * c_BH + gates["i"] * gates["z"]
        n_BH = gates["f"] * n_BH + gates["i"]
        h_BH = gates["o"] * c_BH / n_BH
        return Step(h_BH, (h_BH, c_BH, n_BH, m_BH), gates)


class SLSTMStack(LayeredStack):
    layer_type = SLSTMLayer
