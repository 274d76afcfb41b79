"""Builds what a graph remembers of the tokens themselves: the last ones, before the given ones.

Legend: B lanes, T steps, C remembered tokens, S = C + T.
"""

import numpy as np
from onnx import TensorProto

from carousel.bundle import graphs as names
from carousel.bundle.layout import StateTensor
from carousel_export.graph_builder import GraphBuilder
from carousel_export.native_stacks import next_name


def build_remembered_ids(graph: GraphBuilder, state: StateTensor) -> str:
    """Builds ids_BS: the tokens in `state`, -1 for none, before the given ones.

    Builds the next state as well: the last C tokens up to each row's own length.
    """
    ids_BS = graph.put("Concat", state.name, names.IDS, axis=1)
    lengths_B1 = graph.put("Unsqueeze", graph.put("Cast", names.LENGTHS, to=TensorProto.INT64), graph.axes(1))
    offsets = graph.keep(f"{state.name}_offsets", np.arange(state.shape[0], dtype=np.int64)[None])
    places_BC = graph.put("Add", lengths_B1, offsets)
    graph.add("GatherElements", [ids_BS, places_BC], [next_name(state.name)], axis=1)
    return ids_BS
