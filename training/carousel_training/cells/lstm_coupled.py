"""This module is the LSTM with coupled input and forget gates (CIFG, Greff et al. 2017)."""

import torch

from carousel_training.cells.initial import KEEPING_BIAS
from carousel_training.cells.layered_stack import LayeredStack
from carousel_training.cells.memory import Forget
from carousel_training.cells.memory_layer import MemoryLayer
from carousel_training.cells.stack import StackShape


class CoupledLSTMLayer(MemoryLayer):
    """Computes, with s the logistic function and * the element-wise product, x_t [X], h_t and c_t [H], each W [H,X],
    each U [H,H]:

    i, o = s(W x_t + U h_{t-1} + b) each,  f = 1 - i,  g = tanh(W_g x_t + U_g h_{t-1} + b_g)
    c_t = f * c_{t-1} + i * g,  h_t = o * tanh(c_t)

    The bias of the input gate starts at -1, so f starts as open as in the other cells.
    """

    gates = ("o", "i", "g")
    num_recurrent = 3
    forget = Forget.COUPLED

    def __init__(self, shape: StackShape, layer: int) -> None:
        super().__init__(shape, layer)
        with torch.no_grad():
            self.bias[self.rows("i")].fill_(-KEEPING_BIAS)


class CoupledLSTMStack(LayeredStack):
    layer_type = CoupledLSTMLayer
