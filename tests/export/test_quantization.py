"""Eight-bit products in a graph, against the same numbers in numpy."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from carousel_export.graph_builder import FloatArray, GraphBuilder, describe
from carousel_export.quantization import (
    Operand,
    build_bounded,
    build_product,
    build_sized,
    quantize_channels,
    quantize_rows,
)

NUM_INPUTS, NUM_OUTPUTS = 37, 21


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def normal(rng: np.random.Generator, *shape: int) -> FloatArray:
    return rng.standard_normal(shape).astype(np.float32)


def run_product(x_NK: FloatArray, weight_MK: FloatArray, bias_M: FloatArray | None, *, is_bounded: bool) -> FloatArray:
    graph = GraphBuilder()
    operand = build_bounded(graph, "x") if is_bounded else build_sized(graph, "x")
    build_product(graph, "product", operand, weight_MK, bias_M, result="y")
    inputs = [describe("x", TensorProto.FLOAT, ["N", x_NK.shape[1]])]
    model = graph.as_model("product", inputs, [describe("y", TensorProto.FLOAT, ["N", len(weight_MK)])])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y_NM: FloatArray = session.run(None, {"x": x_NK})[0]
    return y_NM


def test_each_channel_is_within_half_a_level_of_its_own_range(rng: np.random.Generator) -> None:
    """A channel of large weights does not coarsen one of small weights, and the largest weight of each is met."""
    weight_MK = normal(rng, NUM_OUTPUTS, NUM_INPUTS) * np.logspace(-3, 3, NUM_OUTPUTS, dtype=np.float32)[:, None]
    levels_KM, scales_M = quantize_channels(weight_MK)
    assert levels_KM.dtype == np.int8
    assert levels_KM.shape == (NUM_INPUTS, NUM_OUTPUTS)
    assert np.all(np.abs(levels_KM).max(axis=0) == 63)
    error_MK = np.abs(levels_KM.T * scales_M[:, None] - weight_MK)
    assert np.all(error_MK <= 0.501 * scales_M[:, None])


def test_rows_of_zeros_stay_zeros() -> None:
    """Nothing is divided by nothing: such a channel gives its bias, such a row of a table stands for zeros."""
    zeros = np.zeros((3, NUM_INPUTS), np.float32)
    values, sizes = quantize_rows(zeros)
    assert np.all(values == 128)
    assert np.all(sizes > 0.0)
    bias = np.array([1.0, -2.0, 0.5], np.float32)
    for is_bounded in (True, False):
        np.testing.assert_array_equal(run_product(zeros, zeros, bias, is_bounded=is_bounded), [bias] * 3)


def test_a_table_is_the_row_times_its_size(rng: np.random.Generator) -> None:
    """Each row of an embedding is rounded against its own largest value, and depends on no other."""
    table_VK = normal(rng, 5, NUM_INPUTS) * np.array([[1e-4], [1.0], [3.0], [50.0], [1e4]], np.float32)
    values, sizes_V1 = quantize_rows(table_VK)
    restored = (values.astype(np.float32) - 128) / 127 * sizes_V1
    assert np.all(np.abs(restored - table_VK) <= 0.501 * sizes_V1 / 127)
    np.testing.assert_array_equal(quantize_rows(table_VK[2:3])[0], values[2:3])


@pytest.mark.parametrize("with_bias", [True, False])
def test_a_product_is_the_sum_over_rounded_numbers(rng: np.random.Generator, with_bias: bool) -> None:
    """What the graph computes is exact but for the rounding of the two factors, at the edges of the range as well."""
    x_NK = np.tanh(3.0 * normal(rng, 9, NUM_INPUTS))
    x_NK[0], x_NK[1] = 1.0, -1.0
    weight_MK = normal(rng, NUM_OUTPUTS, NUM_INPUTS)
    bias_M = normal(rng, NUM_OUTPUTS) if with_bias else None
    levels_KM, scales_M = quantize_channels(weight_MK)
    expected_NM = np.rint(x_NK * 127).astype(np.int64) @ levels_KM.astype(np.int64) * (scales_M / 127.0)
    found_NM = run_product(x_NK, weight_MK, bias_M, is_bounded=True)
    np.testing.assert_allclose(found_NM, expected_NM + (0.0 if bias_M is None else bias_M), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found_NM, x_NK @ weight_MK.T + (0.0 if bias_M is None else bias_M), atol=0.25)


@pytest.mark.parametrize("with_bias", [True, False])
def test_a_row_without_a_bound_takes_its_own_size(rng: np.random.Generator, with_bias: bool) -> None:
    """Rows of very different sizes are each as exact as a row between -1 and 1, and no row changes another's bits."""
    sizes_N1 = np.array([[1e-6], [1e-2], [1.0], [40.0], [1e5]], np.float32)
    x_NK, weight_MK = normal(rng, 5, NUM_INPUTS) * sizes_N1, normal(rng, NUM_OUTPUTS, NUM_INPUTS)
    bias_M = np.zeros(NUM_OUTPUTS, np.float32) if with_bias else None
    found_NM = run_product(x_NK, weight_MK, bias_M, is_bounded=False)
    np.testing.assert_allclose(found_NM / sizes_N1, (x_NK / sizes_N1) @ weight_MK.T, atol=0.5)
    for row in range(5):
        alone_1M = run_product(x_NK[row : row + 1], weight_MK, bias_M, is_bounded=False)
        np.testing.assert_array_equal(alone_1M[0], found_NM[row])


def test_no_pair_of_products_overflows_sixteen_bits(rng: np.random.Generator) -> None:
    """Processors without an instruction of their own add products in pairs, in 16 bits, and cut what does not fit."""
    levels_KM, _ = quantize_channels(normal(rng, NUM_OUTPUTS, NUM_INPUTS))
    largest_activation = int(quantize_rows(np.ones((1, 2), np.float32))[0].max())
    assert 2 * largest_activation * int(np.abs(levels_KM).max()) < 2**15


def test_sums_at_the_ends_of_the_range_are_exact() -> None:
    """All ones, and all minus ones, against all the largest weights."""
    ends_NK, weight_MK = np.ones((2, 650), np.float32), np.ones((8, 650), np.float32)
    ends_NK[1] = -1.0
    found_NM = run_product(ends_NK, weight_MK, None, is_bounded=True)
    np.testing.assert_allclose(found_NM, [[650.0] * 8, [-650.0] * 8], rtol=1e-6)


def test_sizes_of_an_operand_multiply_the_result(rng: np.random.Generator) -> None:
    """As an embedding's rows do: values from a table, sizes beside them."""
    graph, weight_MK = GraphBuilder(), normal(rng, NUM_OUTPUTS, NUM_INPUTS)
    build_product(graph, "product", Operand("values", "sizes"), weight_MK, None, result="y")
    inputs = [
        describe("values", TensorProto.UINT8, ["N", NUM_INPUTS]),
        describe("sizes", TensorProto.FLOAT, ["N", 1]),
    ]
    model = graph.as_model("product", inputs, [describe("y", TensorProto.FLOAT, ["N", NUM_OUTPUTS])])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    table_VK = normal(rng, 4, NUM_INPUTS) * np.array([[0.1], [1.0], [10.0], [100.0]], np.float32)
    values, sizes_V1 = quantize_rows(table_VK)
    (y_VM,) = session.run(None, {"values": values, "sizes": sizes_V1})
    np.testing.assert_allclose(y_VM / sizes_V1, (table_VK / sizes_V1) @ weight_MK.T, atol=0.25)
