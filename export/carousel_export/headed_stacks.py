"""The cells with heads: block-diagonal products, one small matrix a head, and memories that are vectors or matrices.

Every operator here gives a row the same bits wherever it stands in a batch; onnxruntime's Log, Softplus and ReduceMean
do not, and are avoided. Legend: B lanes, T steps, X input width, N heads of width D, H = N x D, K keys, V = D + 1.
"""

import numpy as np
import torch

from carousel_export.drawing import Drawing, to_array
from carousel_export.looped_stacks import draw_from_input, draw_mask, draw_scan
from carousel_training.cells.heads import block_columns
from carousel_training.cells.layered_stack import LayeredStack
from carousel_training.cells.rg_lru import LEAST_NEW, RGLRULayer
from carousel_training.cells.stack import RecurrentStack


def draw_rg_lru(drawing: Drawing, stack: RecurrentStack, below_TBX: str) -> str:
    """a = exp(-fade) with fade = r * rates; 1 - a^2 = 2 t / (1 + t) with t = tanh(fade), which does not cancel."""
    assert isinstance(stack, LayeredStack)
    mask_TB1, one = draw_mask(drawing, below_TBX), drawing.keep("one", np.ones(1, np.float32))
    two, least = (drawing.keep(n, np.array(v, np.float32)) for n, v in (("two", 2.0), ("least_new", LEAST_NEW)))
    for index, layer in enumerate(stack.each()):
        assert isinstance(layer, RGLRULayer)
        name, shape = f"layer_{index}", stack.shape
        u_TBH = draw_from_input(drawing, name, layer.weight_in, layer.bias_in, below_TBX)
        u_TBND = _reshape(drawing, u_TBH, 0, 0, shape.num_heads, shape.head_size)
        sums = draw_block_product(drawing, name, u_TBND, layer.weight_gates, shape.num_heads, 2)
        bias = to_array(layer.bias_gates).reshape(2, shape.num_heads, shape.head_size).swapaxes(0, 1)
        sums = drawing.put("Add", sums, drawing.keep(f"{name}.gates.b", bias.reshape(shape.num_heads, -1)))
        by_head = drawing.split(drawing.put("Sigmoid", sums), 2)
        r_TBH, i_TBH = (_reshape(drawing, gate, 0, 0, shape.hidden_size) for gate in by_head)
        fade_TBH = drawing.put("Mul", r_TBH, drawing.keep(f"{name}.rates", to_array(layer.rates())))
        kept_TBH, t_TBH = drawing.put("Exp", drawing.put("Neg", fade_TBH)), drawing.put("Tanh", fade_TBH)
        share_TBH = drawing.put("Div", drawing.put("Mul", two, t_TBH), drawing.put("Add", one, t_TBH))
        new_TBH = drawing.put("Sqrt", drawing.put("Max", share_TBH, least))
        added_TBH = drawing.put("Mul", new_TBH, drawing.put("Mul", i_TBH, u_TBH))
        below_TBX = draw_scan(drawing, index, kept_TBH, added_TBH, mask_TB1)
    return below_TBX


def draw_block_product(
    drawing: Drawing, name: str, given: str, weight: torch.Tensor, num_heads: int, num_gates: int
) -> str:
    """A product for each head: [...,N,D] to [...,N,k x D]. A batch of matrices in one MatMul would round a single row
    otherwise than many."""
    columns_NDK = to_array(block_columns(weight, num_heads, num_gates))
    parts = [f"{drawing.prefix}{name}_{given.removeprefix(drawing.prefix)}_head_{head}" for head in range(num_heads)]
    drawing.add("Split", [given], parts, axis=-2, num_outputs=num_heads)
    heads = [
        drawing.put("MatMul", part, drawing.keep(f"{name}.block_{head}", columns_NDK[head]))
        for head, part in enumerate(parts)
    ]
    return drawing.put("Concat", *heads, axis=-2)


def _reshape(drawing: Drawing, given: str, *shape: int, result: str = "") -> str:
    """0 keeps an axis."""
    wanted = drawing.keep("shape_" + "_".join(map(str, shape)), np.array(shape, np.int64))
    return drawing.add("Reshape", [given, wanted], [result]) if result else drawing.put("Reshape", given, wanted)


HEADED = {"rg-lru": draw_rg_lru}
