"""The cells with heads: block-diagonal products, one small matrix a head, and memories that are vectors or matrices.

Every operator here gives a row the same bits wherever it stands in a batch; onnxruntime's Log, Softplus and ReduceMean
do not, and are avoided. Legend: B lanes, T steps, X input width, N heads of width D, H = N x D, K keys, V = D + 1.
"""

from collections.abc import Sequence

import numpy as np
import torch

from carousel_export.drawing import Drawing, Loop, to_array
from carousel_export.looped_stacks import draw_from_input, draw_mask, draw_scan
from carousel_export.native_stacks import next_name
from carousel_training.cells.heads import block_columns
from carousel_training.cells.layered_stack import LayeredStack
from carousel_training.cells.mlstm import LEAST_NORMALIZER, MOST_POWER, SMALLEST_SQUARE, MLSTMLayer
from carousel_training.cells.rg_lru import LEAST_NEW, RGLRULayer
from carousel_training.cells.slstm import SLSTMLayer
from carousel_training.cells.stack import RecurrentStack

LOG_TERMS = (1 / 15, 1 / 13, 1 / 11, 1 / 9, 1 / 7, 1 / 5, 1 / 3, 1.0)


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
        r_TBH, i_TBH = (_reshape(drawing, gate, 0, 0, shape.hidden_size) for gate in drawing.split(sums, 2))
        r_TBH, i_TBH = draw_exact_sigmoid(drawing, r_TBH), drawing.put("Sigmoid", i_TBH)
        fade_TBH = drawing.put("Mul", r_TBH, drawing.keep(f"{name}.rates", to_array(layer.rates())))
        kept_TBH, t_TBH = drawing.put("Exp", drawing.put("Neg", fade_TBH)), drawing.put("Tanh", fade_TBH)
        share_TBH = drawing.put("Div", drawing.put("Mul", two, t_TBH), drawing.put("Add", one, t_TBH))
        new_TBH = drawing.put("Sqrt", drawing.put("Max", share_TBH, least))
        added_TBH = drawing.put("Mul", new_TBH, drawing.put("Mul", i_TBH, u_TBH))
        below_TBX = draw_scan(drawing, index, kept_TBH, added_TBH, mask_TB1)
    return below_TBX


def draw_slstm(drawing: Drawing, stack: RecurrentStack, below_TBX: str) -> str:
    """The states are [B,N,D] in the loop, the gates side by side within each head."""
    assert isinstance(stack, LayeredStack)
    mask_TB11, shape = drawing.put("Unsqueeze", draw_mask(drawing, below_TBX), drawing.axes(3)), stack.shape
    for index, layer in enumerate(stack.each()):
        assert isinstance(layer, SLSTMLayer)
        name = f"layer_{index}"

        def body(step: Drawing, before: Sequence[str], given: Sequence[str], own: SLSTMLayer = layer) -> list[str]:
            return _step_slstm(step, before, given[0], own)

        order = np.arange(4 * shape.hidden_size).reshape(4, shape.num_heads, -1).swapaxes(0, 1).flatten()
        pre_TBG = draw_from_input(drawing, name, layer.weight_ih[order], layer.bias[order], below_TBX)
        pre_TBNK = _reshape(drawing, pre_TBG, 0, 0, shape.num_heads, 4 * shape.head_size)
        states = [f"{part}_{index}" for part in layer.parts]
        given = [_reshape(drawing, state, 0, shape.num_heads, shape.head_size) for state in states]
        finals = [f"{state}_by_head" for state in states]
        (h_TBND,) = Loop(name, given, [pre_TBNK], mask_TB11, body).draw(drawing, finals)
        for state, final in zip(states, finals, strict=True):
            _reshape(drawing, final, 0, shape.hidden_size, result=next_name(state))
        below_TBX = _reshape(drawing, h_TBND, 0, 0, shape.hidden_size)
    return below_TBX


def _step_slstm(step: Drawing, before: Sequence[str], pre_BNK: str, layer: SLSTMLayer) -> list[str]:
    h, c, n, m = before
    product_BNK = draw_block_product(step, "recurrent", h, layer.weight_hh, layer.shape.num_heads, 4)
    z, i, f, o = step.split(step.put("Add", pre_BNK, product_BNK), 4)
    kept, new, m = _draw_shares(step, draw_log_sigmoid(step, f), i, m)
    c = step.put("Add", step.put("Mul", kept, c), step.put("Mul", new, step.put("Tanh", z)))
    n = step.put("Add", step.put("Mul", kept, n), new)
    h = step.put("Mul", step.put("Sigmoid", o), step.put("Div", c, n))
    return [h, c, n, m]


def draw_mlstm(drawing: Drawing, stack: RecurrentStack, below_TBX: str) -> str:
    """The loop holds [C, n] as one matrix [B,N,K,V] and m as [B,N,1,1], and shows [C, n]' q."""
    assert isinstance(stack, LayeredStack)
    mask_TB111 = drawing.put("Unsqueeze", draw_mask(drawing, below_TBX), drawing.axes(3, 4))
    for index, layer in enumerate(stack.each()):
        assert isinstance(layer, MLSTMLayer)
        name, width = f"layer_{index}", stack.shape.head_size
        sums_TBG = draw_from_input(drawing, name, *_scaled(layer), below_TBX)
        sizes = drawing.keep(f"{name}.sizes", np.array(layer.sizes, np.int64))
        q, k, v, o, i, f = (f"{name}_{part}" for part in "qkvoif")
        drawing.add("Split", [sums_TBG, sizes], [q, k, v, o, i, f], axis=-1)
        heads = stack.shape.num_heads
        shapes = {q: (1, layer.key_size), k: (layer.key_size, 1), v: (1, width), i: (1, 1), f: (1, 1)}
        q, k, v, i, f = (_reshape(drawing, part, 0, 0, heads, *rest) for part, rest in shapes.items())
        one = drawing.keep(f"{name}.one", np.ones(1, np.float32))
        v = drawing.put("Concat", v, drawing.put("Expand", one, drawing.put("Shape", i)), axis=-1)
        c, n, m = (f"{part}_{index}" for part in layer.parts)
        memory = drawing.put("Concat", c, drawing.put("Unsqueeze", n, drawing.axes(3)), axis=-1)
        level = drawing.put("Unsqueeze", m, drawing.axes(2, 3))
        loop = Loop(name, [memory, level], [q, k, v, draw_log_sigmoid(drawing, f), i], mask_TB111, _step_mlstm)
        read, levels = loop.draw(drawing, [f"{name}_memory", f"{name}_level"])
        widths = drawing.keep("widths", np.array([width, 1], np.int64))
        normalizer = f"{next_name(n)}_column"
        drawing.add("Split", [f"{name}_memory", widths], [next_name(c), normalizer], axis=-1)
        drawing.add("Squeeze", [normalizer, drawing.axes(3)], [next_name(n)])
        drawing.add("Squeeze", [f"{name}_level", drawing.axes(2, 3)], [next_name(m)])
        normed_TBH = _reshape(drawing, _normalize(drawing, read, levels, width), 0, 0, stack.shape.hidden_size)
        gain_TBH = drawing.put("Mul", drawing.put("Sigmoid", o), drawing.keep(f"{name}.g", to_array(layer.weight_norm)))
        below_TBX = drawing.put("Mul", gain_TBH, normed_TBH)
    return below_TBX


def _step_mlstm(step: Drawing, before: Sequence[str], given: Sequence[str]) -> list[str]:
    memory, level = before
    q, k, v, log_f, i = given
    kept, new, level = _draw_shares(step, log_f, i, level)
    written = step.put("Mul", step.put("Mul", new, k), v)
    memory = step.put("Add", step.put("Mul", kept, memory), written)
    return [memory, level, step.put("MatMul", q, memory), step.put("Identity", level)]


def _normalize(drawing: Drawing, read: str, levels: str, width: int) -> str:
    """As `normalize` in the cell's file, [T,B,N,1,D]. The sum of squares is a product of the row with itself."""
    values, weights = f"{read}_values", f"{read}_weights"
    widths = drawing.keep("widths", np.array([width, 1], np.int64))
    drawing.add("Split", [read, widths], [values, weights], axis=-1)
    limits = {"most_power": MOST_POWER, "least_normalizer": LEAST_NORMALIZER, "smallest_square": SMALLEST_SQUARE}
    most, least, smallest = (drawing.keep(name, np.array(value, np.float32)) for name, value in limits.items())
    unit = drawing.put("Exp", drawing.put("Min", drawing.put("Neg", levels), most))
    divisor = drawing.put("Max", drawing.put("Abs", weights), unit, least)
    squares = drawing.put("MatMul", values, drawing.put("Transpose", values, perm=[0, 1, 2, 4, 3]))
    mean = drawing.put("Div", squares, drawing.keep("width", np.array(width, np.float32)))
    floor = drawing.put("Mul", drawing.put("Mul", divisor, divisor), smallest)
    return drawing.put("Div", values, drawing.put("Sqrt", drawing.put("Add", mean, floor)))


def _scaled(layer: MLSTMLayer) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights with the keys' 1 / sqrt(K) in them."""
    scale = torch.ones(sum(layer.sizes))
    scale[layer.sizes[0] : 2 * layer.sizes[0]] = layer.key_size**-0.5
    return layer.weight_ih.detach().cpu() * scale[:, None], layer.bias.detach().cpu() * scale


def _draw_shares(drawing: Drawing, log_f: str, i: str, m: str) -> tuple[str, str, str]:
    """What is kept of the memory, what is new in it, and the next level m."""
    carried = drawing.put("Add", log_f, m)
    level = drawing.put("Max", carried, i)
    kept, new = (drawing.put("Exp", drawing.put("Sub", power, level)) for power in (carried, i))
    return kept, new, level


def draw_exact_sigmoid(drawing: Drawing, sums: str) -> str:
    """1 / (1 + exp(-a)): onnxruntime's Sigmoid is near in absolute terms alone, and a root is to be taken of it."""
    one, bound = drawing.keep("one", np.ones(1, np.float32)), drawing.keep("bound", np.array(80.0, np.float32))
    power = drawing.put("Exp", drawing.put("Min", drawing.put("Neg", sums), bound))
    return drawing.put("Div", one, drawing.put("Add", power, one))


def draw_log_sigmoid(drawing: Drawing, sums: str) -> str:
    """min(a, 0) - log(1 + e) with e = exp(-|a|), and log(1 + e) = 2 artanh(e / (2 + e)) by its series to the 15th power
    of at most 1/3, which is exact to float32's last digits."""
    zero, two = (drawing.keep(f"log.{value}", np.array(value, np.float32)) for value in (0, 2))
    e = drawing.put("Exp", drawing.put("Neg", drawing.put("Abs", sums)))
    s = drawing.put("Div", e, drawing.put("Add", e, two))
    square = drawing.put("Mul", s, s)
    terms = [drawing.keep(f"log.term_{at}", np.array(2 * term, np.float32)) for at, term in enumerate(LOG_TERMS)]
    series = terms[0]
    for term in terms[1:]:
        series = drawing.put("Add", drawing.put("Mul", series, square), term)
    return drawing.put("Sub", drawing.put("Min", sums, zero), drawing.put("Mul", series, s))


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


HEADED = {"rg-lru": draw_rg_lru, "slstm": draw_slstm, "mlstm": draw_mlstm}
