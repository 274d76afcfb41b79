"""A graph in the making: nodes, constants and fresh names. It knows operators by name and no cell.

Legend: B lanes, T steps, H hidden width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

OPSET = 21
IR_VERSION = 10
PRODUCER = "carousel-export"
RUNTIME_DOMAIN = "com.microsoft"  # of onnxruntime's own operators

FloatArray = npt.NDArray[np.float32]


@dataclass(slots=True)
class Drawing:
    """Nodes are added in the order in which they run; every constant stands once under its name. A graph inside another
    must not use the outer one's names: its own begin with `prefix`."""

    prefix: str = ""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def add(self, operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> str:
        """Returns the first output, so that nodes chain. An output "" is not wanted."""
        self.nodes.append(helper.make_node(operator, inputs, outputs, **attributes))
        return outputs[0]

    def put(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output whose name does not matter."""
        return self.add(operator, inputs, [f"{self.prefix}{operator}_{len(self.nodes)}"], **attributes)

    def split(self, joined: str, num_parts: int) -> list[str]:
        """Equal parts of the last axis."""
        outputs = [f"{joined}_part_{part}" for part in range(num_parts)]
        self.add("Split", [joined], outputs, axis=-1, num_outputs=num_parts)
        return outputs

    def keep(self, name: str, array: npt.NDArray[np.generic]) -> str:
        """A constant; returns its name, which has the prefix."""
        name = f"{self.prefix}{name}"
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def insert(self, other: "Drawing", prefix: str, renamed: Mapping[str, str], result: str) -> str:
        """All of the other drawing, its own names prefixed, but for those in `renamed`; what it neither makes nor keeps
        is this drawing's. Returns the new name of its `result`."""
        own = {*other.constants, *(name for node in other.nodes for name in node.output if name)}
        names = {name: f"{prefix}{name}" for name in own} | dict(renamed)

        def rename(name: str) -> str:
            return names.get(name, name)

        def within(name: str) -> str:
            return f"{prefix}{name}" if name else name

        self.nodes += [_rename(node, rename, within) for node in other.nodes]
        for name, tensor in other.constants.items():
            copy = onnx.TensorProto()
            copy.CopyFrom(tensor)
            copy.name = names[name]
            self.constants[copy.name] = copy
        return names[result]

    def axes(self, *axes: int) -> str:
        """The constant that names axes, for Squeeze, Unsqueeze and the reductions."""
        return self.keep("axes_" + "_".join(map(str, axes)), np.array(axes, np.int64))

    def graph(
        self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> onnx.GraphProto:
        return helper.make_graph(self.nodes, name, inputs, outputs, list(self.constants.values()))

    def finish(
        self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        graph = self.graph(name, inputs, outputs)
        opsets = [helper.make_opsetid("", OPSET)]
        if _uses_runtime_operators(graph):
            opsets.append(helper.make_opsetid(RUNTIME_DOMAIN, 1))
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name=PRODUCER)
        onnx.checker.check_model(model, full_check=True)
        return model


Rename = Callable[[str], str]
StepBody = Callable[[Drawing, Sequence[str], Sequence[str]], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Loop:
    """A recurrence over time: `states` are [B,...], `inputs` [T,B,...], `mask` [T,B,1] or as wide as a state says where
    a state takes its new value; elsewhere it keeps the old one, bit for bit. `body(drawing, states, inputs)` draws one
    step and names the new states, and after them what else of the step is to be seen."""

    name: str
    states: Sequence[str]
    inputs: Sequence[str]
    mask: str
    body: StepBody

    def draw(self, drawing: Drawing, finals: Sequence[str], *, num_sequences: int = 1) -> list[str]:
        """A Scan. The states after the last step go under the names `finals`; returns what else is to be seen at every
        step, [T,B,...] each, or if there is nothing else the first `num_sequences` states."""
        step, num_states = Drawing(f"{self.name}_step."), len(self.states)
        before = [f"{self.name}_before_{index}" for index in range(num_states)]
        given = [f"{self.name}_given_{index}" for index in range(len(self.inputs))]
        mask = f"{self.name}_mask"
        new = self.body(step, before, given)
        after = [step.put("Where", mask, value, old) for value, old in zip(new[:num_states], before, strict=True)]
        seen = [step.put("Identity", value) for value in new[num_states:] or after[:num_sequences]]
        floats = [describe(name, TensorProto.FLOAT, None) for name in (*before, *given)]
        body = step.graph(
            f"{self.name}_step",
            [*floats, describe(mask, TensorProto.BOOL, None)],
            [describe(name, TensorProto.FLOAT, None) for name in (*after, *seen)],
        )
        sequences = [f"{self.name}_sequence_{index}" for index in range(len(seen))]
        inputs = [*self.states, *self.inputs, self.mask]
        drawing.add("Scan", inputs, [*finals, *sequences], body=body, num_scan_inputs=len(self.inputs) + 1)
        return sequences


def _rename(node: onnx.NodeProto, rename: Rename, within: Rename) -> onnx.NodeProto:
    """A copy. The body of a loop knows its own names alone, which `within` renames."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:], copy.output[:] = map(rename, node.input), map(rename, node.output)
    for body in (attribute.g for attribute in copy.attribute if attribute.HasField("g")):
        inner = [_rename(each, within, within) for each in body.node]
        del body.node[:]
        body.node.extend(inner)
        for value in (*body.input, *body.output):
            value.name = within(value.name)
        for constant in body.initializer:
            constant.name = within(constant.name)
    return copy


def describe(name: str, kind: int, shape: list[str | int] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _uses_runtime_operators(graph: onnx.GraphProto) -> bool:
    """Here or in the body of a loop."""
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return any(node.domain == RUNTIME_DOMAIN for node in graph.node) or any(map(_uses_runtime_operators, inner))


def to_array(tensor: torch.Tensor) -> FloatArray:
    return np.asarray(tensor.detach().cpu().to(torch.float32).numpy())
