"""Loops in a graph, against the same recurrence in numpy."""

from collections.abc import Sequence

import numpy as np
import onnxruntime
from onnx import TensorProto

from carousel_export.graph_builder import GraphBuilder, Loop, describe


def step_decay(step: GraphBuilder, before: Sequence[str], given: Sequence[str]) -> list[str]:
    """a = 0.5 * a + x; b = b + a before."""
    half = step.keep("half", np.full(1, 0.5, np.float32))
    a, b = before
    return [step.put("Add", step.put("Mul", a, half), given[0]), step.put("Add", b, a)]


def test_a_loop_is_its_recurrence_where_the_mask_says_so() -> None:
    """States advance where the mask is true and keep their bits elsewhere; sequences are the states after each step."""
    graph = GraphBuilder()
    loop = Loop("decay", ["a", "b"], ["x"], "mask", step_decay)
    sequences = loop.build(graph, ["a_next", "b_next"], num_sequences=2)
    states = [describe(name, TensorProto.FLOAT, ["B", 2]) for name in ("a", "b", "a_next", "b_next")]
    inputs = [describe("x", TensorProto.FLOAT, ["T", "B", 2]), describe("mask", TensorProto.BOOL, ["T", "B", 1])]
    outputs = [*states[2:], *(describe(name, TensorProto.FLOAT, ["T", "B", 2]) for name in sequences)]
    model = graph.as_model("loop", [*inputs, *states[:2]], outputs)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    x_TB2 = rng.standard_normal((5, 3, 2)).astype(np.float32)
    mask_TB1 = np.arange(5)[:, None, None] < np.array([5, 1, 3])[None, :, None]
    a, b = rng.standard_normal((2, 3, 2)).astype(np.float32)
    found = session.run(None, {"x": x_TB2, "mask": mask_TB1, "a": a, "b": b})
    for t in range(5):
        a_new, b_new = np.float32(0.5) * a + x_TB2[t], b + a
        a, b = np.where(mask_TB1[t], a_new, a), np.where(mask_TB1[t], b_new, b)
        np.testing.assert_array_equal(found[2][t], a)
        np.testing.assert_array_equal(found[3][t], b)
    np.testing.assert_array_equal(found[0], a)
    np.testing.assert_array_equal(found[1], b)


def test_names_inside_a_loop_are_its_own() -> None:
    """A step of a loop shares no name with the graph around it, whose nodes and constants are numbered the same way."""
    graph = GraphBuilder()
    graph.put("Identity", graph.keep("half", np.zeros(1, np.float32)))
    Loop("decay", ["a", "b"], ["x"], "mask", step_decay).build(graph, ["a_next", "b_next"])
    body = graph.nodes[-1].attribute[0].g
    inner = {output for node in body.node for output in node.output} | {constant.name for constant in body.initializer}
    outer = {output for node in graph.nodes for output in node.output} | set(graph.constants)
    assert not inner & outer
