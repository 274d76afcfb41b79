"""The cells that `looped_stacks.py` exports: the inputs of each cell's loop, and one step of it.

Legend: B lanes, T steps, X input width, H hidden width, G gates x H.
"""

from collections.abc import Sequence

import numpy as np
import torch
from onnx import TensorProto

from carousel.bundle import graphs as names
from carousel_export.graph_builder import GraphBuilder, to_array
from carousel_export.looped_stacks import (
    LibraryLayer,
    build_from_input,
    build_gate_inputs,
    build_mask,
    build_steps,
    read_layers,
)
from carousel_export.native_stacks import next_name
from carousel_training.cells.clockwork import ClockworkLayer
from carousel_training.cells.lstm_1997 import LSTM1997Layer
from carousel_training.cells.lstm_depth_gated import DepthGatedLSTMLayer
from carousel_training.cells.lstm_peephole_dense import DensePeepholeLSTMLayer
from carousel_training.cells.mingru import MinGRULayer
from carousel_training.cells.minlstm import MinLSTMLayer
from carousel_training.cells.stack import RecurrentStack


def step_elman(step: GraphBuilder, before: Sequence[str], given: Sequence[str], layer: LibraryLayer) -> list[str]:
    """h = tanh(W x + U h + b)."""
    return [step.put("Tanh", _sums(step, given[0], before[0], layer.weight_hh))]


def step_clockwork(step: GraphBuilder, before: Sequence[str], given: Sequence[str], layer: ClockworkLayer) -> list[str]:
    """The same for all units; the mask says which of them take the new value."""
    return [step.put("Tanh", _sums(step, given[0], before[0], layer.weight_hh * layer.reads_HH))]


def build_due(graph: GraphBuilder, stack: RecurrentStack, below_TBX: str) -> str:
    """Builds the clockwork net's mask [T,B,H]: true where a unit's clock ticks at a valid step.

    Builds the counter's next value as well.
    """
    layer = read_layers(ClockworkLayer)(stack)[0]
    counter = stack.state_layout.tensors[-1].name
    t_TB = graph.put("Add", build_steps(graph, below_TBX), counter)  # [T,1] + [B]
    t_TB1 = graph.put("Unsqueeze", t_TB, graph.axes(2))
    phase_TBH = graph.put("Mod", t_TB1, graph.keep("periods", layer.period_H.cpu().numpy()))
    ticks_TBH = graph.put("Equal", phase_TBH, graph.keep("zero", np.array(0, np.int64)))
    lengths_B = graph.put("Cast", names.LENGTHS, to=TensorProto.INT64)
    longest = graph.keep("longest_period", np.array(layer.longest_period, np.int64))
    graph.add("Mod", [graph.put("Add", counter, lengths_B), longest], [next_name(counter)])
    return graph.put("And", ticks_TBH, build_mask(graph, stack, below_TBX))


def step_lstm_1997(step: GraphBuilder, before: Sequence[str], given: Sequence[str], layer: LSTM1997Layer) -> list[str]:
    """o, i logistic; c = c + i * g; h = o * tanh(c)."""
    h, c = before
    o, i, g = step.split(_sums(step, given[0], h, layer.weight_hh), 3)
    c = step.put("Add", c, step.put("Mul", step.put("Sigmoid", i), step.put("Tanh", g)))
    return [step.put("Mul", step.put("Sigmoid", o), step.put("Tanh", c)), c]


def step_dense_peepholes(
    step: GraphBuilder, before: Sequence[str], given: Sequence[str], layer: DensePeepholeLSTMLayer
) -> list[str]:
    """i and f see c before, o sees c after, each through a matrix."""
    h, c = before
    at_if = step.put("MatMul", c, step.keep("weight_cif", to_array(layer.weight_cif).T))
    o, i, f, g = step.split(_sums(step, given[0], h, layer.weight_hh), 4)
    from_i, from_f = step.split(at_if, 2)
    i = step.put("Sigmoid", step.put("Add", i, from_i))
    f = step.put("Sigmoid", step.put("Add", f, from_f))
    c = step.put("Add", step.put("Mul", f, c), step.put("Mul", i, step.put("Tanh", g)))
    at_o = step.put("MatMul", c, step.keep("weight_co", to_array(layer.weight_co).T))
    o = step.put("Sigmoid", step.put("Add", o, at_o))
    return [step.put("Mul", o, step.put("Tanh", c)), c]


def build_depth_gated_inputs(
    graph: GraphBuilder, name: str, layer: DepthGatedLSTMLayer, below: Sequence[str]
) -> list[str]:
    """Above the bottom layer: also the depth gate's sums without c, and the memory of the layer below."""
    inputs = build_gate_inputs(graph, name, layer, below)
    if layer.weight_d is None or layer.weight_ld is None:
        return inputs
    below_TBX, memory_TBH = below
    sums_TBH = build_from_input(graph, f"{name}.d", layer.weight_d, layer.bias_d, below_TBX)
    weight = graph.keep(f"{name}.ld", to_array(layer.weight_ld))
    return [*inputs, graph.put("Add", sums_TBH, graph.put("Mul", memory_TBH, weight)), memory_TBH]


def step_depth_gated(
    step: GraphBuilder, before: Sequence[str], given: Sequence[str], layer: DepthGatedLSTMLayer
) -> list[str]:
    """Gates with peepholes; above the bottom layer, c also takes d * the memory of the layer below at that step."""
    h, c = before
    o, i, f, g = step.split(_sums(step, given[0], h, layer.weight_hh), 4)
    at_i, at_f = (to_array(weight) for weight in layer.peephole_if.chunk(2))
    i = step.put("Sigmoid", step.put("Add", i, step.put("Mul", c, step.keep("peephole_i", at_i))))
    f = step.put("Sigmoid", step.put("Add", f, step.put("Mul", c, step.keep("peephole_f", at_f))))
    c_next = step.put("Add", step.put("Mul", f, c), step.put("Mul", i, step.put("Tanh", g)))
    if layer.weight_cd is not None:
        seen = step.put("Mul", c, step.keep("weight_cd", to_array(layer.weight_cd)))
        d = step.put("Sigmoid", step.put("Add", given[1], seen))
        c_next = step.put("Add", c_next, step.put("Mul", d, given[2]))
    at_o = step.put("Mul", c_next, step.keep("peephole_o", to_array(layer.peephole_o)))
    o = step.put("Sigmoid", step.put("Add", o, at_o))
    return [step.put("Mul", o, step.put("Tanh", c_next)), c_next]


def build_mingru_inputs(graph: GraphBuilder, name: str, layer: MinGRULayer, below: Sequence[str]) -> list[str]:
    """z = s(W x + b); what is kept is 1 - z."""
    (pre_TBG,) = build_gate_inputs(graph, name, layer, below)
    z_TBH, n_TBH = graph.split(pre_TBG, 2)
    z_TBH = graph.put("Sigmoid", z_TBH)
    kept_TBH = graph.put("Sub", graph.keep("one", np.ones(1, np.float32)), z_TBH)
    return [kept_TBH, graph.put("Mul", z_TBH, n_TBH)]


def build_minlstm_inputs(graph: GraphBuilder, name: str, layer: MinLSTMLayer, below: Sequence[str]) -> list[str]:
    """What is kept is s(f) / (s(f) + s(i)) = (1 + e^-i) / ((1 + e^-f) + (1 + e^-i)).

    The sums are bounded so that no e^ overflows: beyond the bound nothing changes in float32.
    """
    one = graph.keep("one", np.ones(1, np.float32))
    bounds = [graph.keep(f"bound_{sign}", np.array(sign * 80.0, np.float32)) for sign in (-1, 1)]
    (pre_TBG,) = build_gate_inputs(graph, name, layer, below)
    *sums, n_TBH = graph.split(pre_TBG, 3)
    powers = (graph.put("Exp", graph.put("Neg", graph.put("Clip", each, *bounds))) for each in sums)
    against_f, against_i = (graph.put("Add", power, one) for power in powers)
    kept_TBH = graph.put("Div", against_i, graph.put("Add", against_f, against_i))
    return [kept_TBH, graph.put("Mul", graph.put("Sub", one, kept_TBH), n_TBH)]


def step_scan(step: GraphBuilder, before: Sequence[str], given: Sequence[str], layer: object) -> list[str]:
    """h = kept * h + added: what remains in the loop of cells whose gates do not see the state."""
    return [step.put("Add", step.put("Mul", given[0], before[0]), given[1])]


def _sums(step: GraphBuilder, pre_BG: str, h_BH: str, weight_GH: torch.Tensor) -> str:
    """The gates' sums of one step: the part from the input, plus U h."""
    return step.put("Add", pre_BG, step.put("MatMul", h_BH, step.keep("weight_hh", to_array(weight_GH).T)))
