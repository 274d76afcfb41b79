"""This module is the LSTM of Hochreiter & Schmidhuber (1997), without a forget gate."""

from carousel_training.cells.layered_stack import LayeredStack
from carousel_training.cells.memory import Forget
from carousel_training.cells.memory_layer import MemoryLayer


class LSTM1997Layer(MemoryLayer):
    """s the logistic function, * the element-wise product; x_t [X], h_t and c_t [H], each W [H,X], each U [H,H]:

    i, o = s(W x_t + U h_{t-1} + b) each,  g = tanh(W_g x_t + U_g h_{t-1} + b_g)
    c_t = c_{t-1} + i * g,  h_t = o * tanh(c_t)

    The content of c stays there for good: the constant error carousel. The paper's cells form blocks that share gates;
    here each cell has its own gates, and tanh squashes the output.
    """

    gates = ("o", "i", "g")
    num_recurrent = 3
    forget = Forget.NEVER


class LSTM1997Stack(LayeredStack):
    layer_type = LSTM1997Layer
