"""The cells with heads: block-diagonal products, one small matrix per head, and memories that are vectors or matrices.

Every operator here gives a row the same bits in any batch. Onnxruntime's Log, Softplus and ReduceMean do not, and are
avoided. Legend: B lanes, T steps, X input width, N heads of width D, H = N x D, K keys, V = D + 1.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from carousel_export.graph_builder import GraphBuilder, Loop, to_array
from carousel_export.looped_stacks import build_from_input, build_mask
from carousel_export.native_stacks import next_name
from carousel_training.cells.heads import block_columns
from carousel_training.cells.mlstm import LEAST_NORMALIZER, MOST_POWER, SMALLEST_SQUARE, MLSTMLayer
from carousel_training.cells.rg_lru import LEAST_NEW, RGLRULayer
from carousel_training.cells.slstm import SLSTMLayer
from carousel_training.cells.stack import RecurrentStack

LOG_TERMS = (1 / 15, 1 / 13, 1 / 11, 1 / 9, 1 / 7, 1 / 5, 1 / 3, 1.0)


def build_wide_mask(*axes: int) -> Callable[[GraphBuilder, RecurrentStack, str], str]:
    """Returns what builds the mask of valid steps with more axes, for states of more axes."""

    def build(graph: GraphBuilder, stack: RecurrentStack, below_TBX: str) -> str:
        return graph.put("Unsqueeze", build_mask(graph, stack, below_TBX), graph.axes(*axes))

    return build


def build_rg_lru_inputs(graph: GraphBuilder, name: str, layer: RGLRULayer, below: Sequence[str]) -> list[str]:
    """a = exp(-fade) with fade = r * rates; 1 - a^2 = 2 t / (1 + t) with t = tanh(fade), which does not cancel."""
    shape, one = layer.shape, graph.keep("one", np.ones(1, np.float32))
    two, least = (graph.keep(n, np.array(v, np.float32)) for n, v in (("two", 2.0), ("least_new", LEAST_NEW)))
    u_TBH = build_from_input(graph, name, layer.weight_in, layer.bias_in, below[0])
    u_TBND = _reshape(graph, u_TBH, 0, 0, shape.num_heads, shape.head_size)
    sums = build_block_product(graph, name, u_TBND, layer.weight_gates, shape.num_heads, 2)
    bias = to_array(layer.bias_gates).reshape(2, shape.num_heads, shape.head_size).swapaxes(0, 1)
    sums = graph.put("Add", sums, graph.keep(f"{name}.gates.b", bias.reshape(shape.num_heads, -1)))
    r_TBH, i_TBH = (_reshape(graph, gate, 0, 0, shape.hidden_size) for gate in graph.split(sums, 2))
    r_TBH, i_TBH = build_exact_sigmoid(graph, r_TBH), graph.put("Sigmoid", i_TBH)
    fade_TBH = graph.put("Mul", r_TBH, graph.keep(f"{name}.rates", to_array(layer.rates())))
    kept_TBH, t_TBH = graph.put("Exp", graph.put("Neg", fade_TBH)), graph.put("Tanh", fade_TBH)
    share_TBH = graph.put("Div", graph.put("Mul", two, t_TBH), graph.put("Add", one, t_TBH))
    new_TBH = graph.put("Sqrt", graph.put("Max", share_TBH, least))
    return [kept_TBH, graph.put("Mul", new_TBH, graph.put("Mul", i_TBH, u_TBH))]


def build_slstm_layer(
    graph: GraphBuilder, index: int, layer: SLSTMLayer, mask_TB11: str, below: Sequence[str]
) -> list[str]:
    """In the loop the states are [B,N,D], and the gates lie side by side within each head."""
    name, shape = f"layer_{index}", layer.shape
    order = np.arange(4 * shape.hidden_size).reshape(4, shape.num_heads, -1).swapaxes(0, 1).flatten()
    pre_TBG = build_from_input(graph, name, layer.weight_ih[order], layer.bias[order], below[0])
    pre_TBNK = _reshape(graph, pre_TBG, 0, 0, shape.num_heads, 4 * shape.head_size)
    states = [f"{part}_{index}" for part in layer.parts]
    by_head = [_reshape(graph, state, 0, shape.num_heads, shape.head_size) for state in states]
    finals = [f"{state}_by_head" for state in states]

    def body(step: GraphBuilder, before: Sequence[str], given: Sequence[str]) -> list[str]:
        return _step_slstm(step, before, given[0], layer)

    (h_TBND,) = Loop(name, by_head, [pre_TBNK], mask_TB11, body).build(graph, finals)
    for state, final in zip(states, finals, strict=True):
        _reshape(graph, final, 0, shape.hidden_size, result=next_name(state))
    return [_reshape(graph, h_TBND, 0, 0, shape.hidden_size)]


def _step_slstm(step: GraphBuilder, before: Sequence[str], pre_BNK: str, layer: SLSTMLayer) -> list[str]:
    h, c, n, m = before
    product_BNK = build_block_product(step, "recurrent", h, layer.weight_hh, layer.shape.num_heads, 4)
    z, i, f, o = step.split(step.put("Add", pre_BNK, product_BNK), 4)
    kept, new, m = _build_shares(step, build_log_sigmoid(step, f), i, m)
    c = step.put("Add", step.put("Mul", kept, c), step.put("Mul", new, step.put("Tanh", z)))
    n = step.put("Add", step.put("Mul", kept, n), new)
    h = step.put("Mul", step.put("Sigmoid", o), step.put("Div", c, n))
    return [h, c, n, m]


def build_mlstm_layer(
    graph: GraphBuilder, index: int, layer: MLSTMLayer, mask_TB111: str, below: Sequence[str]
) -> list[str]:
    """The loop holds [C, n] as one matrix [B,N,K,V] and m as [B,N,1,1]. Its other results are [C, n]' q and m."""
    name, shape = f"layer_{index}", layer.shape
    q, k, v, o, i, f = _build_mlstm_inputs(graph, name, layer, below[0])
    c, n, m = (f"{part}_{index}" for part in layer.parts)
    memory = graph.put("Concat", c, graph.put("Unsqueeze", n, graph.axes(3)), axis=-1)
    level = graph.put("Unsqueeze", m, graph.axes(2, 3))
    loop = Loop(name, [memory, level], [q, k, v, build_log_sigmoid(graph, f), i], mask_TB111, _step_mlstm)
    read, levels = loop.build(graph, [f"{name}_memory", f"{name}_level"])
    normalizer = f"{next_name(n)}_column"
    graph.add("Split", [f"{name}_memory", _widths(graph, layer)], [next_name(c), normalizer], axis=-1)
    graph.add("Squeeze", [normalizer, graph.axes(3)], [next_name(n)])
    graph.add("Squeeze", [f"{name}_level", graph.axes(2, 3)], [next_name(m)])
    normed_TBH = _reshape(graph, _normalize(graph, read, levels, layer), 0, 0, shape.hidden_size)
    gain_TBH = graph.put("Mul", graph.put("Sigmoid", o), graph.keep(f"{name}.g", to_array(layer.weight_norm)))
    return [graph.put("Mul", gain_TBH, normed_TBH)]


def _build_mlstm_inputs(graph: GraphBuilder, name: str, layer: MLSTMLayer, below_TBX: str) -> list[str]:
    """q, k, v, o, i, f of all steps: all but o by head, and a 1 after each v, which gathers n beside C."""
    sums_TBG = build_from_input(graph, name, *_scaled(layer), below_TBX)
    sizes = graph.keep(f"{name}.sizes", np.array(layer.sizes, np.int64))
    q, k, v, o, i, f = (f"{name}_{part}" for part in "qkvoif")
    graph.add("Split", [sums_TBG, sizes], [q, k, v, o, i, f], axis=-1)
    heads, width = layer.shape.num_heads, layer.shape.head_size
    shapes = {q: (1, layer.key_size), k: (layer.key_size, 1), v: (1, width), i: (1, 1), f: (1, 1)}
    q, k, v, i, f = (_reshape(graph, part, 0, 0, heads, *rest) for part, rest in shapes.items())
    one = graph.keep(f"{name}.one", np.ones(1, np.float32))
    v = graph.put("Concat", v, graph.put("Expand", one, graph.put("Shape", i)), axis=-1)
    return [q, k, v, o, i, f]


def _step_mlstm(step: GraphBuilder, before: Sequence[str], given: Sequence[str]) -> list[str]:
    memory, level = before
    q, k, v, log_f, i = given
    kept, new, level = _build_shares(step, log_f, i, level)
    written = step.put("Mul", step.put("Mul", new, k), v)
    memory = step.put("Add", step.put("Mul", kept, memory), written)
    return [memory, level, step.put("MatMul", q, memory), step.put("Identity", level)]


def _normalize(graph: GraphBuilder, read: str, levels: str, layer: MLSTMLayer) -> str:
    """Builds `normalize` of the cell's file, [T,B,N,1,D]. The sum of squares is a product of the row with itself."""
    values, weights, width = f"{read}_values", f"{read}_weights", layer.shape.head_size
    graph.add("Split", [read, _widths(graph, layer)], [values, weights], axis=-1)
    limits = {"most_power": MOST_POWER, "least_normalizer": LEAST_NORMALIZER, "smallest_square": SMALLEST_SQUARE}
    most, least, smallest = (graph.keep(name, np.array(value, np.float32)) for name, value in limits.items())
    unit = graph.put("Exp", graph.put("Min", graph.put("Neg", levels), most))
    divisor = graph.put("Max", graph.put("Abs", weights), unit, least)
    squares = graph.put("MatMul", values, graph.put("Transpose", values, perm=[0, 1, 2, 4, 3]))
    mean = graph.put("Div", squares, graph.keep("width", np.array(width, np.float32)))
    floor = graph.put("Mul", graph.put("Mul", divisor, divisor), smallest)
    return graph.put("Div", values, graph.put("Sqrt", graph.put("Add", mean, floor)))


def _widths(graph: GraphBuilder, layer: MLSTMLayer) -> str:
    """The columns of C and of n in the loop's matrix."""
    return graph.keep("widths", np.array([layer.shape.head_size, 1], np.int64))


def _scaled(layer: MLSTMLayer) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns weights and biases with the keys' 1 / sqrt(K) multiplied in."""
    scale = torch.ones(sum(layer.sizes))
    scale[layer.sizes[0] : 2 * layer.sizes[0]] = layer.key_size**-0.5
    return layer.weight_ih.detach().cpu() * scale[:, None], layer.bias.detach().cpu() * scale


def _build_shares(graph: GraphBuilder, log_f: str, i: str, m: str) -> tuple[str, str, str]:
    """Builds the share of the memory that is kept, the share that is new, and the next level m."""
    carried = graph.put("Add", log_f, m)
    level = graph.put("Max", carried, i)
    kept, new = (graph.put("Exp", graph.put("Sub", power, level)) for power in (carried, i))
    return kept, new, level


def build_exact_sigmoid(graph: GraphBuilder, sums: str) -> str:
    """Builds 1 / (1 + exp(-a)). Onnxruntime's Sigmoid has a small absolute error only, too much under a root."""
    one, bound = graph.keep("one", np.ones(1, np.float32)), graph.keep("bound", np.array(80.0, np.float32))
    power = graph.put("Exp", graph.put("Min", graph.put("Neg", sums), bound))
    return graph.put("Div", one, graph.put("Add", power, one))


def build_log_sigmoid(graph: GraphBuilder, sums: str) -> str:
    """Builds min(a, 0) - log(1 + e) with e = exp(-|a|), and log(1 + e) = 2 artanh(e / (2 + e)).

    The series of artanh runs to the 15th power of at most 1/3, which is exact to float32's last digits.
    """
    zero, two = (graph.keep(f"log.{value}", np.array(value, np.float32)) for value in (0, 2))
    e = graph.put("Exp", graph.put("Neg", graph.put("Abs", sums)))
    s = graph.put("Div", e, graph.put("Add", e, two))
    square = graph.put("Mul", s, s)
    terms = [graph.keep(f"log.term_{at}", np.array(2 * term, np.float32)) for at, term in enumerate(LOG_TERMS)]
    series = terms[0]
    for term in terms[1:]:
        series = graph.put("Add", graph.put("Mul", series, square), term)
    return graph.put("Sub", graph.put("Min", sums, zero), graph.put("Mul", series, s))


def build_block_product(
    graph: GraphBuilder, name: str, given: str, weight: torch.Tensor, num_heads: int, num_gates: int
) -> str:
    """Builds a product for each head: [...,N,D] to [...,N,k x D].

    A batch of matrices in one MatMul would round a single row differently from many.
    """
    columns_NDK = to_array(block_columns(weight, num_heads, num_gates))
    parts = [f"{graph.prefix}{name}_{given.removeprefix(graph.prefix)}_head_{head}" for head in range(num_heads)]
    graph.add("Split", [given], parts, axis=-2, num_outputs=num_heads)
    heads = [
        graph.put("MatMul", part, graph.keep(f"{name}.block_{head}", columns_NDK[head]))
        for head, part in enumerate(parts)
    ]
    return graph.put("Concat", *heads, axis=-2)


def _reshape(graph: GraphBuilder, given: str, *shape: int, result: str = "") -> str:
    """Adds a Reshape, in which 0 keeps an axis."""
    wanted = graph.keep("shape_" + "_".join(map(str, shape)), np.array(shape, np.int64))
    return graph.add("Reshape", [given, wanted], [result]) if result else graph.put("Reshape", given, wanted)
