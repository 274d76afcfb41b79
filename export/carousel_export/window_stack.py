"""The time-delay network as a graph: no loop, since a step sees nothing but a window of tokens.

Legend: B lanes, T steps, S = T + n - 1 tokens, n the window, E embedding width, H hidden width.
"""

import numpy as np
from onnx import TensorProto

from carousel.bundle import graphs as names
from carousel_export.drawing import Drawing, to_array
from carousel_export.native_stacks import next_name
from carousel_training.cells.tdnn import TimeDelayStack

TO_THE_END = np.iinfo(np.int64).max


def draw_window_ids(drawing: Drawing, stack: TimeDelayStack) -> str:
    """ids_SB: the remembered tokens, -1 for none, before the given ones. Draws the next window as well: the last n - 1
    tokens up to each row's own length."""
    ids_TB = drawing.put("Transpose", names.IDS, perm=[1, 0])
    if stack.num_context == 0:
        return ids_TB
    (window,) = stack.state_layout.tensors
    ids_BS = drawing.put("Concat", window.name, names.IDS, axis=1)
    lengths_B1 = drawing.put("Unsqueeze", drawing.put("Cast", names.LENGTHS, to=TensorProto.INT64), drawing.axes(1))
    offsets = drawing.keep("window_offsets", np.arange(stack.num_context, dtype=np.int64)[None])
    places_BW = drawing.put("Add", lengths_B1, offsets)
    drawing.add("GatherElements", [ids_BS, places_BW], [next_name(window.name)], axis=1)
    return drawing.put("Transpose", ids_BS, perm=[1, 0])


def draw_embedded(drawing: Drawing, table: str, ids_SB: str) -> str:
    """x_SBE, zeros where there is no token."""
    zero = drawing.keep("zero", np.array(0, np.int64))
    found_SBE = drawing.put("Gather", table, drawing.put("Max", ids_SB, zero), axis=0)
    is_token_SB = drawing.put("Not", drawing.put("Less", ids_SB, zero))
    is_token_SB1 = drawing.put("Unsqueeze", is_token_SB, drawing.axes(2))
    return drawing.put("Where", is_token_SB1, found_SBE, drawing.keep("nothing", np.zeros(1, np.float32)))


def draw_tdnn(drawing: Drawing, stack: TimeDelayStack, x_SBE: str) -> str:
    """The window's embeddings side by side, then tanh layers; returns the top one, [T,B,H]."""
    delays, axis = [], drawing.axes(0)
    for delay in range(stack.shape.window):
        start = drawing.keep(f"from_{delay}", np.array([delay], np.int64))
        end = drawing.keep(f"to_{delay}", np.array([delay - stack.num_context or TO_THE_END], np.int64))
        delays.append(drawing.put("Slice", x_SBE, start, end, axis))
    y_TBX = drawing.put("Concat", *delays, axis=2)
    for index, layer in enumerate(stack.linear_layers()):
        product = drawing.put("MatMul", y_TBX, drawing.keep(f"layer_{index}.W", to_array(layer.weight).T))
        y_TBX = drawing.put("Tanh", drawing.put("Add", product, drawing.keep(f"layer_{index}.b", to_array(layer.bias))))
    return y_TBX
