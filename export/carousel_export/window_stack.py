"""Exports the time-delay network: no loop, since a step sees nothing but a window of tokens.

Legend: B lanes, T steps, S = T + n - 1 tokens, n the window, E embedding width, H hidden width.
"""

import numpy as np
from onnx import TensorProto

from carousel.bundle import graphs as names
from carousel_export.graph_builder import GraphBuilder, to_array
from carousel_export.native_stacks import next_name
from carousel_training.cells.stack import RecurrentStack
from carousel_training.cells.tdnn import TimeDelayStack

TO_THE_END = np.iinfo(np.int64).max


def build_window_ids(graph: GraphBuilder, stack: TimeDelayStack) -> str:
    """Builds ids_SB: the remembered tokens, -1 for none, before the given ones.

    Builds the next window as well: the last n - 1 tokens up to each row's own length.
    """
    ids_TB = graph.put("Transpose", names.IDS, perm=[1, 0])
    if stack.num_context == 0:
        return ids_TB
    (window,) = stack.state_layout.tensors
    ids_BS = graph.put("Concat", window.name, names.IDS, axis=1)
    lengths_B1 = graph.put("Unsqueeze", graph.put("Cast", names.LENGTHS, to=TensorProto.INT64), graph.axes(1))
    offsets = graph.keep("window_offsets", np.arange(stack.num_context, dtype=np.int64)[None])
    places_BW = graph.put("Add", lengths_B1, offsets)
    graph.add("GatherElements", [ids_BS, places_BW], [next_name(window.name)], axis=1)
    return graph.put("Transpose", ids_BS, perm=[1, 0])


def build_embedded(graph: GraphBuilder, table: str, ids_SB: str) -> str:
    """Builds x_SBE, with zeros where there is no token."""
    zero = graph.keep("zero", np.array(0, np.int64))
    found_SBE = graph.put("Gather", table, graph.put("Max", ids_SB, zero), axis=0)
    is_token_SB = graph.put("Not", graph.put("Less", ids_SB, zero))
    is_token_SB1 = graph.put("Unsqueeze", is_token_SB, graph.axes(2))
    return graph.put("Where", is_token_SB1, found_SBE, graph.keep("nothing", np.zeros(1, np.float32)))


def build_tdnn(graph: GraphBuilder, stack: RecurrentStack, x_SBE: str) -> str:
    """Builds the window's embeddings side by side, then tanh layers; returns the top layer's output, [T,B,H]."""
    assert isinstance(stack, TimeDelayStack)
    delays, axis = [], graph.axes(0)
    for delay in range(stack.shape.window):
        start = graph.keep(f"from_{delay}", np.array([delay], np.int64))
        end = graph.keep(f"to_{delay}", np.array([delay - stack.num_context or TO_THE_END], np.int64))
        delays.append(graph.put("Slice", x_SBE, start, end, axis))
    y_TBX = graph.put("Concat", *delays, axis=2)
    for index, layer in enumerate(stack.linear_layers()):
        product = graph.put("MatMul", y_TBX, graph.keep(f"layer_{index}.W", to_array(layer.weight).T))
        y_TBX = graph.put("Tanh", graph.put("Add", product, graph.keep(f"layer_{index}.b", to_array(layer.bias))))
    return y_TBX
