"""Residual blocks around any cell's graph. Every operator gives a row the same bits wherever it stands in a batch;
LpNormalization is the norm because onnxruntime's ReduceMean does not.

Legend: B lanes, T steps, X input width, H hidden width, M how many times wider the feed-forward net is.
"""

from collections.abc import Callable

import numpy as np

from carousel_export.drawing import Drawing, to_array
from carousel_export.native_stacks import next_name
from carousel_training.cells.residual import GatedMLP, ResidualStack, RMSNorm
from carousel_training.cells.stack import RecurrentStack

CellDrawing = Callable[[Drawing, RecurrentStack, str], str]


def draw_residual(drawing: Drawing, stack: ResidualStack, x_TBX: str, draw_cell: CellDrawing) -> str:
    """The whole stack, with each block's cell drawn by `draw_cell` as if it were the only one; returns its output,
    [T,B,H]."""
    y_TBH = x_TBX
    if stack.projection is not None:
        product = drawing.put("MatMul", x_TBX, drawing.keep("blocks_in.W", to_array(stack.projection.weight).T))
        y_TBH = drawing.put("Add", product, drawing.keep("blocks_in.b", to_array(stack.projection.bias)))
    for index, block in enumerate(stack.each()):
        name, alone = f"block_{index}", Drawing()
        normed_TBH = _draw_norm(drawing, f"{name}.cell_norm", block.cell_norm, y_TBH)
        output = draw_cell(alone, block.cell, normed_TBH)
        pairs = zip(block.cell.state_layout.tensors, stack.block_layout(index), strict=True)
        names = {own.name: tensor.name for own, tensor in pairs}
        names |= {next_name(own): next_name(name) for own, name in names.items()}
        from_cell_TBH = drawing.insert(alone, f"{name}.", names, output)
        y_TBH = drawing.put("Add", y_TBH, from_cell_TBH)
        normed_TBH = _draw_norm(drawing, f"{name}.mlp_norm", block.mlp_norm, y_TBH)
        y_TBH = drawing.put("Add", y_TBH, _draw_mlp(drawing, f"{name}.mlp", block.mlp, normed_TBH))
    return _draw_norm(drawing, "blocks_out", stack.norm, y_TBH)


def _draw_norm(drawing: Drawing, name: str, norm: RMSNorm, x_TBH: str) -> str:
    """Its result bears the name, which no cell's own graph uses."""
    weight = to_array(norm.weight) * np.float32(len(norm.weight) ** 0.5)
    unit_TBH = drawing.put("LpNormalization", x_TBH, axis=-1, p=2)
    return drawing.add("Mul", [unit_TBH, drawing.keep(f"{name}.g", weight)], [name])


def _draw_mlp(drawing: Drawing, name: str, mlp: GatedMLP, x_TBH: str) -> str:
    gate, up = drawing.split(drawing.put("MatMul", x_TBH, drawing.keep(f"{name}.up", to_array(mlp.weight_up).T)), 2)
    between = drawing.put("Mul", drawing.put("Gelu", gate, approximate="tanh"), up)
    return drawing.put("MatMul", between, drawing.keep(f"{name}.down", to_array(mlp.weight_down).T))
