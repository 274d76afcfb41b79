"""This module is the mLSTM (Beck et al. 2024, xLSTM): a matrix memory, written and read by keys, with exponential
gates."""

import math

import torch
from torch import nn
from torch.nn import functional

from carousel.bundle.layout import StateTensor
from carousel_training.cells.initial import initialise_input
from carousel_training.cells.layered_stack import LayeredStack, LayerRun, StackLayer
from carousel_training.cells.matrix_memory import Gates, Reading, run_matrix_memory
from carousel_training.cells.memory import wide_type
from carousel_training.cells.slstm import NOTHING
from carousel_training.cells.stack import StackShape, State, Step

FORGET_BIASES = (3.0, 6.0)
INPUT_BIAS_SPREAD = 0.1
LEAST_NORMALIZER = 1e-6
MOST_POWER = 40.0  # the square of e^40 is finite in float32, and as good as infinite
SMALLEST_SQUARE = 1e-2  # a head much smaller than its root stays small, and so does its rounding error
Tensor = torch.Tensor


class MLSTMLayer(StackLayer):
    """s the logistic function, * the element-wise product; x_t [X], o_t and h_t [H]; for each of N heads q and k [K],
    v and h~ [D], a_i and a_f numbers, the memory C [K,D], the normaliser n [K], D = H / N, K = D / 2 rounded up:

    q = W_q x_t + b,  k = (W_k x_t + b) / sqrt(K),  v = W_v x_t + b,  i = exp(w_i x_t + b),  f = s(w_f x_t + b)
    C_t = f C_{t-1} + i k v',  n_t = f n_{t-1} + i k,  h~_t = C_t' q / max(|n_t' q|, 1)
    h_t = s(W_o x_t + b) * g * [h~ / sqrt(mean of h~^2 + 0.01) of all heads]

    computed with C and n divided by exp(m_t), m_t = max(log f + m_{t-1}, a_i), as in `slstm.py`; the 1 becomes
    exp(-m_t), and no divisor is below 1e-6, as in the authors' code. Nothing here sees h_{t-1}, so all steps of a
    segment are computed together.

    Of the paper's forget gates this is the logistic one. The norm of each head, g [H], follows the cell in the paper's
    block and is part of the cell in the authors' code; without it, cancellation in the divisor can make h~ arbitrarily
    large. Keys of half the values' width come from xLSTM 7B (Beck et al. 2025), and halve the memory. The convolution
    and the wider projections around the cell are left out. The gates start blind: w_i and w_f are 0, b_f spreads over
    the heads from 3 to 6, b_i is near 0.
    """

    parts = ("c", "n", "m")

    def __init__(self, shape: StackShape, layer: int) -> None:
        super().__init__(shape, layer)
        self.key_size = math.ceil(shape.head_size / 2)
        keys, size, heads = self.key_size * shape.num_heads, shape.hidden_size, shape.num_heads
        self.sizes = (keys, keys, size, size, heads, heads)  # the rows of q, k, v, o, i, f
        self.weight_ih = nn.Parameter(torch.empty(sum(self.sizes), self.input_size))
        self.bias = nn.Parameter(torch.zeros(sum(self.sizes)))
        self.weight_norm = nn.Parameter(torch.ones(size))
        initialise_input(self.weight_ih)
        with torch.no_grad():
            self.weight_ih[-2 * heads :].zero_()
            self.bias[-2 * heads : -heads].normal_(std=INPUT_BIAS_SPREAD)
            self.bias[-heads:].copy_(torch.linspace(*FORGET_BIASES, heads))

    @property
    def layout(self) -> tuple[StateTensor, ...]:
        heads, keys = self.shape.num_heads, self.key_size
        return (
            StateTensor("c", (heads, keys, self.shape.head_size), "float32"),
            StateTensor("n", (heads, keys), "float32"),
            StateTensor("m", (heads,), "float32", NOTHING),
        )

    def sequence(self, x_TBX: Tensor, state: State, below_TBH: Tensor | None) -> LayerRun:
        q_TBK, k_TBK, v_TBH, o_TBH, i_TBN, f_TBN = self.split(functional.linear(x_TBX, self.weight_ih, self.bias))
        heads, wide = self.shape.num_heads, wide_type(x_TBX.dtype)
        q, k, v = (torch.unflatten(part, 2, (heads, -1)).permute(1, 2, 0, 3) for part in (q_TBK, k_TBK, v_TBH))
        log_f, a_i = (part.to(wide).permute(1, 2, 0) for part in (functional.logsigmoid(f_TBN.to(wide)), i_TBN))
        c_BNKD, n_BNK, m_BN = (tensor.to(wide) for tensor in state)
        read, after = run_matrix_memory(q, k / math.sqrt(self.key_size), v, Gates(log_f, a_i), (c_BNKD, n_BNK, m_BN))
        normed_TBH = normalize(read).permute(2, 0, 1, 3).flatten(2) * self.weight_norm
        return LayerRun(torch.sigmoid(o_TBH) * normed_TBH.to(o_TBH.dtype), after)

    def step(self, x_BX: Tensor, state: State, below_BH: Tensor | None) -> Step:
        c_BNKD, n_BNK, m_BN = state
        q_BK, k_BK, v_BH, o_BH, i_BN, f_BN = self.split(functional.linear(x_BX, self.weight_ih, self.bias))
        q, k, v = (torch.unflatten(part, 1, (self.shape.num_heads, -1)) for part in (q_BK, k_BK, v_BH))
        k = k / math.sqrt(self.key_size)
        kept_BN = functional.logsigmoid(f_BN) + m_BN
        m_BN = torch.maximum(kept_BN, i_BN)
        f, i = torch.exp(kept_BN - m_BN)[..., None], torch.exp(i_BN - m_BN)[..., None]
        c_BNKD = f[..., None] * c_BNKD + (i * k)[..., None] * v[..., None, :]
        n_BNK = f * n_BNK + i * k
        read = Reading((c_BNKD * q[..., None]).sum(2), (n_BNK * q).sum(2), m_BN)
        gates = {"o": torch.sigmoid(o_BH), "i": i.expand_as(v).flatten(1), "f": f.expand_as(v).flatten(1)}
        return Step(gates["o"] * self.weight_norm * normalize(read).flatten(1), (c_BNKD, n_BNK, m_BN), gates)

    def split(self, sums: Tensor) -> tuple[Tensor, ...]:
        """Splits the columns into q, k, v, o, i, f."""
        return sums.split_with_sizes(self.sizes, dim=-1)


class MLSTMStack(LayeredStack):
    layer_type = MLSTMLayer


def normalize(read: Reading) -> Tensor:
    """Returns h~ over its root mean square, with both sides of the fraction multiplied by h~'s divisor."""
    least = torch.exp((-read.m).clamp_max(MOST_POWER)).clamp_min(LEAST_NORMALIZER)
    divisor = torch.maximum(read.weights.abs(), least)[..., None]
    square = read.values.square().mean(-1, keepdim=True) + SMALLEST_SQUARE * divisor.square()
    return read.values / torch.sqrt(square)
