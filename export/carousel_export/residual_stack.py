"""Exports residual blocks around any cell's graph.

Every operator gives a row the same bits at any place in a batch. LpNormalization is the norm because onnxruntime's
ReduceMean does not. Legend: B lanes, T steps, X input width, H hidden width.
"""

from collections.abc import Callable

import numpy as np

from carousel_export.graph_builder import GraphBuilder, to_array
from carousel_export.native_stacks import next_name
from carousel_training.cells.residual import GatedMLP, ResidualStack, RMSNorm
from carousel_training.cells.stack import RecurrentStack

BuildCell = Callable[[GraphBuilder, RecurrentStack, str], str]


def build_residual(graph: GraphBuilder, stack: ResidualStack, x_TBX: str, build_cell: BuildCell) -> str:
    """Builds the whole stack and returns its output, [T,B,H]. `build_cell` builds each block's cell on its own."""
    y_TBH = x_TBX
    if stack.projection is not None:
        product = graph.put("MatMul", x_TBX, graph.keep("blocks_in.W", to_array(stack.projection.weight).T))
        y_TBH = graph.put("Add", product, graph.keep("blocks_in.b", to_array(stack.projection.bias)))
    for index, block in enumerate(stack.each()):
        name, alone = f"block_{index}", GraphBuilder()
        normed_TBH = _build_norm(graph, f"{name}.cell_norm", block.cell_norm, y_TBH)
        output = build_cell(alone, block.cell, normed_TBH)
        pairs = zip(block.cell.state_layout.tensors, stack.block_layout(index), strict=True)
        names = {own.name: tensor.name for own, tensor in pairs}
        names |= {next_name(own): next_name(name) for own, name in names.items()}
        from_cell_TBH = graph.insert(alone, f"{name}.", names, output)
        y_TBH = graph.put("Add", y_TBH, from_cell_TBH)
        normed_TBH = _build_norm(graph, f"{name}.mlp_norm", block.mlp_norm, y_TBH)
        y_TBH = graph.put("Add", y_TBH, _build_mlp(graph, f"{name}.mlp", block.mlp, normed_TBH))
    return _build_norm(graph, "blocks_out", stack.norm, y_TBH)


def _build_norm(graph: GraphBuilder, name: str, norm: RMSNorm, x_TBH: str) -> str:
    """Builds a norm whose result bears the name, which no cell's own graph uses."""
    weight = to_array(norm.weight) * np.float32(len(norm.weight) ** 0.5)
    unit_TBH = graph.put("LpNormalization", x_TBH, axis=-1, p=2)
    return graph.add("Mul", [unit_TBH, graph.keep(f"{name}.g", weight)], [name])


def _build_mlp(graph: GraphBuilder, name: str, mlp: GatedMLP, x_TBH: str) -> str:
    gate, up = graph.split(graph.put("MatMul", x_TBH, graph.keep(f"{name}.up", to_array(mlp.weight_up).T)), 2)
    between = graph.put("Mul", graph.put("Gelu", gate, approximate="tanh"), up)
    return graph.put("MatMul", between, graph.keep(f"{name}.down", to_array(mlp.weight_down).T))
