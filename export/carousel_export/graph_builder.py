"""Builds an ONNX graph: nodes, constants and fresh names. It knows operators by name and no cell.

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
class GraphBuilder:
    """Collects nodes in the order in which they run, and each constant once under its name.

    A graph inside another graph must not reuse the outer names, so its own names begin with `prefix`.
    """

    prefix: str = ""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def add(self, operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> str:
        """Adds a node and returns its first output, so that nodes chain. The output "" is left out."""
        self.nodes.append(helper.make_node(operator, inputs, outputs, **attributes))
        return outputs[0]

    def put(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node with one output and returns the output's generated name."""
        return self.add(operator, inputs, [f"{self.prefix}{operator}_{len(self.nodes)}"], **attributes)

    def split(self, joined: str, num_parts: int) -> list[str]:
        """Splits the last axis into equal parts."""
        outputs = [f"{joined}_part_{part}" for part in range(num_parts)]
        self.add("Split", [joined], outputs, axis=-1, num_outputs=num_parts)
        return outputs

    def keep(self, name: str, array: npt.NDArray[np.generic]) -> str:
        """Stores a constant and returns its name with the prefix."""
        name = f"{self.prefix}{name}"
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def insert(self, other: "GraphBuilder", prefix: str, renamed: Mapping[str, str], result: str) -> str:
        """Copies the other graph into this one and returns the new name of its `result`.

        The other graph's own names get the prefix, except those in `renamed`. All other names refer to this graph.
        """
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
        """Stores the constant that names axes, for Squeeze, Unsqueeze and the reductions."""
        return self.keep("axes_" + "_".join(map(str, axes)), np.array(axes, np.int64))

    def as_graph(
        self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> onnx.GraphProto:
        return helper.make_graph(self.nodes, name, inputs, outputs, list(self.constants.values()))

    def as_model(
        self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """Returns the whole model, checked by onnx."""
        graph = self.as_graph(name, inputs, outputs)
        opsets = [helper.make_opsetid("", OPSET)]
        if _uses_runtime_operators(graph):
            opsets.append(helper.make_opsetid(RUNTIME_DOMAIN, 1))
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name=PRODUCER)
        onnx.checker.check_model(model, full_check=True)
        return model


Rename = Callable[[str], str]
StepBody = Callable[[GraphBuilder, Sequence[str], Sequence[str]], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Loop:
    """A recurrence over time.

    `states` are [B,...], `inputs` [T,B,...], and `mask` [T,B,1] or as wide as a state. Where the mask is true, a state
    takes its new value; elsewhere it keeps the old one, bit for bit. `body(step, states, inputs)` builds one step and
    returns the new states, followed by the step's other results.
    """

    name: str
    states: Sequence[str]
    inputs: Sequence[str]
    mask: str
    body: StepBody

    def build(self, graph: GraphBuilder, finals: Sequence[str], *, num_sequences: int = 1) -> list[str]:
        """Adds a Scan to the graph. The states after the last step get the names `finals`.

        Returns the other results of all steps, [T,B,...] each. Without any, returns the first `num_sequences` states.
        """
        step, num_states = GraphBuilder(f"{self.name}_step."), len(self.states)
        before = [f"{self.name}_before_{index}" for index in range(num_states)]
        given = [f"{self.name}_given_{index}" for index in range(len(self.inputs))]
        mask = f"{self.name}_mask"
        new = self.body(step, before, given)
        after = [step.put("Where", mask, value, old) for value, old in zip(new[:num_states], before, strict=True)]
        seen = [step.put("Identity", value) for value in new[num_states:] or after[:num_sequences]]
        floats = [describe(name, TensorProto.FLOAT, None) for name in (*before, *given)]
        body = step.as_graph(
            f"{self.name}_step",
            [*floats, describe(mask, TensorProto.BOOL, None)],
            [describe(name, TensorProto.FLOAT, None) for name in (*after, *seen)],
        )
        sequences = [f"{self.name}_sequence_{index}" for index in range(len(seen))]
        inputs = [*self.states, *self.inputs, self.mask]
        graph.add("Scan", inputs, [*finals, *sequences], body=body, num_scan_inputs=len(self.inputs) + 1)
        return sequences


def _rename(node: onnx.NodeProto, rename: Rename, within: Rename) -> onnx.NodeProto:
    """Copies a node under new names. The body of a loop knows only its own names, and `within` renames those."""
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
    """Looks at the graph and at the bodies of its loops."""
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return any(node.domain == RUNTIME_DOMAIN for node in graph.node) or any(map(_uses_runtime_operators, inner))


def to_array(tensor: torch.Tensor) -> FloatArray:
    return np.asarray(tensor.detach().cpu().to(torch.float32).numpy())
