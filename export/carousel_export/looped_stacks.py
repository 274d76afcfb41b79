"""Cells that no ONNX operator expresses: products with the input for all steps at once, then a loop in the graph over
what depends on the step before. Rows past their length keep their state exactly.

Legend: B lanes, T steps, X input width, H hidden width, G gates x H.
"""

from collections.abc import Sequence

import numpy as np
import torch
from onnx import TensorProto

from carousel.bundle import graphs as names
from carousel_export.drawing import Drawing, Loop, to_array
from carousel_export.native_stacks import next_name
from carousel_training.cells.clockwork import ClockworkLayer, ClockworkStack
from carousel_training.cells.elman import ElmanStack
from carousel_training.cells.layered_stack import LayeredStack, RecurrentLayer
from carousel_training.cells.lstm_depth_gated import DepthGatedLSTMLayer
from carousel_training.cells.lstm_peephole_dense import DensePeepholeLSTMLayer
from carousel_training.cells.stack import RecurrentStack


def draw_elman(drawing: Drawing, stack: RecurrentStack, below_TBX: str) -> str:
    """h = tanh(W x + U h + b)."""
    assert isinstance(stack, ElmanStack)
    mask_TB1 = draw_mask(drawing, below_TBX)
    for index in range(stack.shape.num_layers):
        weights = stack.weights(index)

        def body(
            step: Drawing, before: Sequence[str], given: Sequence[str], weight: torch.Tensor = weights.weight_hh
        ) -> list[str]:
            product = step.put("MatMul", before[0], step.keep("weight_hh", to_array(weight).T))
            return [step.put("Tanh", step.put("Add", given[0], product))]

        bias = weights.bias_ih + weights.bias_hh
        pre_TBH = _from_input(drawing, f"layer_{index}", weights.weight_ih, bias, below_TBX)
        (below_TBX,) = Loop(f"layer_{index}", [f"h_{index}"], [pre_TBH], mask_TB1, body).draw(
            drawing, [next_name(f"h_{index}")]
        )
    return below_TBX


def draw_lstm_1997(drawing: Drawing, stack: RecurrentStack, below_TBX: str) -> str:
    """o, i logistic; c = c + i * g; h = o * tanh(c)."""
    mask_TB1 = draw_mask(drawing, below_TBX)
    for index, layer in enumerate(_layers(stack)):

        def body(step: Drawing, before: Sequence[str], given: Sequence[str], own: RecurrentLayer = layer) -> list[str]:
            h, c = before
            o, i, g = step.split(_sums(step, own, given[0], h), 3)
            c = step.put("Add", c, step.put("Mul", step.put("Sigmoid", i), step.put("Tanh", g)))
            return [step.put("Mul", step.put("Sigmoid", o), step.put("Tanh", c)), c]

        pre_TBG = _from_input(drawing, f"layer_{index}", layer.weight_ih, layer.bias, below_TBX)
        states = [f"h_{index}", f"c_{index}"]
        loop = Loop(f"layer_{index}", states, [pre_TBG], mask_TB1, body)
        (below_TBX,) = loop.draw(drawing, [next_name(name) for name in states])
    return below_TBX


def draw_lstm_peephole_dense(drawing: Drawing, stack: RecurrentStack, below_TBX: str) -> str:
    """i and f see c before, o sees c after, each through a matrix."""
    mask_TB1 = draw_mask(drawing, below_TBX)
    for index, layer in enumerate(_layers(stack)):

        def body(step: Drawing, before: Sequence[str], given: Sequence[str], own: RecurrentLayer = layer) -> list[str]:
            assert isinstance(own, DensePeepholeLSTMLayer)
            h, c = before
            at_if = step.put("MatMul", c, step.keep("weight_cif", to_array(own.weight_cif).T))
            o, i, f, g = step.split(_sums(step, own, given[0], h), 4)
            from_i, from_f = step.split(at_if, 2)
            i = step.put("Sigmoid", step.put("Add", i, from_i))
            f = step.put("Sigmoid", step.put("Add", f, from_f))
            c = step.put("Add", step.put("Mul", f, c), step.put("Mul", i, step.put("Tanh", g)))
            at_o = step.put("MatMul", c, step.keep("weight_co", to_array(own.weight_co).T))
            o = step.put("Sigmoid", step.put("Add", o, at_o))
            return [step.put("Mul", o, step.put("Tanh", c)), c]

        pre_TBG = _from_input(drawing, f"layer_{index}", layer.weight_ih, layer.bias, below_TBX)
        states = [f"h_{index}", f"c_{index}"]
        loop = Loop(f"layer_{index}", states, [pre_TBG], mask_TB1, body)
        (below_TBX,) = loop.draw(drawing, [next_name(name) for name in states])
    return below_TBX


def draw_lstm_depth_gated(drawing: Drawing, stack: RecurrentStack, below_TBX: str) -> str:
    """Gates with peepholes; above the bottom layer, c also takes d * the memory of the layer below at that step."""
    mask_TB1, memory_TBH = draw_mask(drawing, below_TBX), ""
    for index, layer in enumerate(_layers(stack)):

        def body(step: Drawing, before: Sequence[str], given: Sequence[str], own: RecurrentLayer = layer) -> list[str]:
            assert isinstance(own, DepthGatedLSTMLayer)
            h, c = before
            o, i, f, g = step.split(_sums(step, own, given[0], h), 4)
            at_i, at_f = (to_array(weight) for weight in own.peephole_if.chunk(2))
            i = step.put("Sigmoid", step.put("Add", i, step.put("Mul", c, step.keep("peephole_i", at_i))))
            f = step.put("Sigmoid", step.put("Add", f, step.put("Mul", c, step.keep("peephole_f", at_f))))
            c_next = step.put("Add", step.put("Mul", f, c), step.put("Mul", i, step.put("Tanh", g)))
            if own.weight_cd is not None:
                seen = step.put("Mul", c, step.keep("weight_cd", to_array(own.weight_cd)))
                d = step.put("Sigmoid", step.put("Add", given[1], seen))
                c_next = step.put("Add", c_next, step.put("Mul", d, given[2]))
            at_o = step.put("Mul", c_next, step.keep("peephole_o", to_array(own.peephole_o)))
            o = step.put("Sigmoid", step.put("Add", o, at_o))
            return [step.put("Mul", o, step.put("Tanh", c_next)), c_next]

        inputs = [_from_input(drawing, f"layer_{index}", layer.weight_ih, layer.bias, below_TBX)]
        if memory_TBH:
            inputs += [_depth_sums(drawing, index, layer, below_TBX, memory_TBH), memory_TBH]
        states = [f"h_{index}", f"c_{index}"]
        loop = Loop(f"layer_{index}", states, inputs, mask_TB1, body)
        below_TBX, memory_TBH = loop.draw(drawing, [next_name(name) for name in states], num_sequences=2)
    return below_TBX


def draw_clockwork(drawing: Drawing, stack: RecurrentStack, below_TBX: str) -> str:
    """The mask of real steps and the clocks are one: a unit takes its new value where it is due in a real step."""
    assert isinstance(stack, ClockworkStack)
    is_due_TBH = _due(drawing, stack, below_TBX)
    for index, layer in enumerate(_layers(stack)):

        def body(step: Drawing, before: Sequence[str], given: Sequence[str], own: RecurrentLayer = layer) -> list[str]:
            assert isinstance(own, ClockworkLayer)
            columns = step.keep("weight_hh", to_array(own.weight_hh * own.reads_HH).T)
            return [step.put("Tanh", step.put("Add", given[0], step.put("MatMul", before[0], columns)))]

        pre_TBH = _from_input(drawing, f"layer_{index}", layer.weight_ih, layer.bias, below_TBX)
        loop = Loop(f"layer_{index}", [f"h_{index}"], [pre_TBH], is_due_TBH, body)
        (below_TBX,) = loop.draw(drawing, [next_name(f"h_{index}")])
    return below_TBX


def draw_mingru(drawing: Drawing, stack: RecurrentStack, below_TBX: str) -> str:
    """z = s(W x + b); kept is 1 - z."""
    mask_TB1 = draw_mask(drawing, below_TBX)
    for index, layer in enumerate(_layers(stack)):
        z_TBH, n_TBH = drawing.split(_from_input(drawing, f"layer_{index}", layer.weight_ih, layer.bias, below_TBX), 2)
        z_TBH = drawing.put("Sigmoid", z_TBH)
        kept_TBH = drawing.put("Sub", drawing.keep("one", np.ones(1, np.float32)), z_TBH)
        below_TBX = _draw_scan(drawing, index, kept_TBH, drawing.put("Mul", z_TBH, n_TBH), mask_TB1)
    return below_TBX


def draw_minlstm(drawing: Drawing, stack: RecurrentStack, below_TBX: str) -> str:
    """Kept is s(f) / (s(f) + s(i)) = (1 + e^-i) / ((1 + e^-f) + (1 + e^-i)), the sums bounded so that no e^ overflows:
    beyond the bound nothing in float32 changes any more."""
    mask_TB1 = draw_mask(drawing, below_TBX)
    one = drawing.keep("one", np.ones(1, np.float32))
    bounds = [drawing.keep(f"bound_{sign}", np.array(sign * 80.0, np.float32)) for sign in (-1, 1)]
    for index, layer in enumerate(_layers(stack)):
        pre_TBG = _from_input(drawing, f"layer_{index}", layer.weight_ih, layer.bias, below_TBX)
        *sums, n_TBH = drawing.split(pre_TBG, 3)
        powers = (drawing.put("Exp", drawing.put("Neg", drawing.put("Clip", name, *bounds))) for name in sums)
        against_f, against_i = (drawing.put("Add", power, one) for power in powers)
        kept_TBH = drawing.put("Div", against_i, drawing.put("Add", against_f, against_i))
        new_TBH = drawing.put("Sub", one, kept_TBH)
        below_TBX = _draw_scan(drawing, index, kept_TBH, drawing.put("Mul", new_TBH, n_TBH), mask_TB1)
    return below_TBX


LOOPS = {
    "elman": draw_elman,
    "lstm-1997": draw_lstm_1997,
    "lstm-peephole-dense": draw_lstm_peephole_dense,
    "lstm-depth-gated": draw_lstm_depth_gated,
    "clockwork": draw_clockwork,
    "mingru": draw_mingru,
    "minlstm": draw_minlstm,
}


def _draw_scan(drawing: Drawing, index: int, kept_TBH: str, added_TBH: str, mask_TB1: str) -> str:
    """h = kept * h + added."""

    def body(step: Drawing, before: Sequence[str], given: Sequence[str]) -> list[str]:
        return [step.put("Add", step.put("Mul", given[0], before[0]), given[1])]

    loop = Loop(f"layer_{index}", [f"h_{index}"], [kept_TBH, added_TBH], mask_TB1, body)
    (h_TBH,) = loop.draw(drawing, [next_name(f"h_{index}")])
    return h_TBH


def _layers(stack: RecurrentStack) -> list[RecurrentLayer]:
    assert isinstance(stack, LayeredStack)
    return stack.each()


def _sums(step: Drawing, layer: RecurrentLayer, pre_BG: str, h_BH: str) -> str:
    """The gates' sums of one step: what comes from the input, plus U h."""
    columns = step.keep("weight_hh", to_array(layer.weight_hh).T)
    return step.put("Add", pre_BG, step.put("MatMul", h_BH, columns))


def _from_input(
    drawing: Drawing, name: str, weight_GX: torch.Tensor, bias_G: torch.Tensor | None, below_TBX: str
) -> str:
    """W x + b for all steps."""
    product = drawing.put("MatMul", below_TBX, drawing.keep(f"{name}.W", to_array(weight_GX).T))
    return product if bias_G is None else drawing.put("Add", product, drawing.keep(f"{name}.b", to_array(bias_G)))


def _depth_sums(drawing: Drawing, index: int, layer: RecurrentLayer, below_TBX: str, memory_TBH: str) -> str:
    """What the depth gate sees besides c of the step before."""
    assert isinstance(layer, DepthGatedLSTMLayer)
    assert layer.weight_d is not None
    assert layer.weight_ld is not None
    sums_TBH = _from_input(drawing, f"layer_{index}.d", layer.weight_d, layer.bias_d, below_TBX)
    weight = drawing.keep(f"layer_{index}.ld", to_array(layer.weight_ld))
    return drawing.put("Add", sums_TBH, drawing.put("Mul", memory_TBH, weight))


def _steps(drawing: Drawing, below_TBX: str) -> str:
    """0, 1, ... T-1 as int64 [T,1]."""
    num_steps = drawing.put("Squeeze", drawing.put("Shape", below_TBX, start=0, end=1), drawing.axes(0))
    zero, one = drawing.keep("zero", np.array(0, np.int64)), drawing.keep("step_one", np.array(1, np.int64))
    return drawing.put("Unsqueeze", drawing.put("Range", zero, num_steps, one), drawing.axes(1))


def draw_mask(drawing: Drawing, below_TBX: str) -> str:
    """mask_TB1: whether a step is one of its row's own."""
    lengths_B = drawing.put("Cast", names.LENGTHS, to=TensorProto.INT64)
    return drawing.put("Unsqueeze", drawing.put("Less", _steps(drawing, below_TBX), lengths_B), drawing.axes(2))


def _due(drawing: Drawing, stack: ClockworkStack, below_TBX: str) -> str:
    """Whether a unit's clock ticks at a real step, [T,B,H]; also draws the counter's next value."""
    layer = _layers(stack)[0]
    assert isinstance(layer, ClockworkLayer)
    counter = stack.state_layout.tensors[-1].name
    t_TB = drawing.put("Add", _steps(drawing, below_TBX), counter)  # [T,1] + [B]
    t_TB1 = drawing.put("Unsqueeze", t_TB, drawing.axes(2))
    phase_TBH = drawing.put("Mod", t_TB1, drawing.keep("periods", layer.period_H.cpu().numpy()))
    ticks_TBH = drawing.put("Equal", phase_TBH, drawing.keep("zero", np.array(0, np.int64)))
    lengths_B = drawing.put("Cast", names.LENGTHS, to=TensorProto.INT64)
    longest = drawing.keep("longest_period", np.array(layer.longest_period, np.int64))
    drawing.add("Mod", [drawing.put("Add", counter, lengths_B), longest], [next_name(counter)])
    return drawing.put("And", ticks_TBH, draw_mask(drawing, below_TBX))
