"""Products of eight-bit integers inside a graph: what is rounded, and how the float32 result comes back.

Weights have a scale for each output channel. What is multiplied with them lies between -1 and 1, by what it is or
divided by its row's own size, so that its scale is always 1/127: nothing is calibrated, and no row can see another.
Sums of integers are exact in any order. Legend: N rows, K what is summed over, M output channels, V rows of a table.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from carousel_export.graph_builder import RUNTIME_DOMAIN, FloatArray, GraphBuilder

LEVELS = 127  # of activations and tables, on either side of zero
WEIGHT_LEVELS = 63  # two products with 255 must fit 16 bits, where older processors add them in pairs
ZERO_POINT = 128  # activations are unsigned, weights signed: that is the pairing processors have an instruction for
SMALLEST_SIZE = 1e-30  # of a row: one of zeros stays one of zeros


class Operand(NamedTuple):
    """`values` uint8 [..., K], which stand for numbers of -1 to 1; `sizes` [..., 1] multiply a row, "" for ones."""

    values: str
    sizes: str = ""


def quantize_channels(weight_MK: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Integers as [K,M], the way they are multiplied, and scales_M."""
    scales_M = _sizes(weight_MK)[:, 0] / np.float32(WEIGHT_LEVELS)
    return np.ascontiguousarray(_levels(weight_MK, WEIGHT_LEVELS).astype(np.int8).T), scales_M


def quantize_rows(table_VK: FloatArray) -> tuple[npt.NDArray[np.uint8], FloatArray]:
    """The rows of a table as the values of an Operand, and their sizes_V1."""
    return (_levels(table_VK, LEVELS) + ZERO_POINT).astype(np.uint8), _sizes(table_VK)


def build_bounded(graph: GraphBuilder, x: str) -> Operand:
    """Of values that lie between -1 and 1 by what they are."""
    return Operand(graph.put("QuantizeLinear", x, *_unit(graph)))


def build_sized(graph: GraphBuilder, x: str) -> Operand:
    """Of values without a bound: each row is divided by its own size, which no other row takes part in."""
    largest = graph.put("ReduceMax", graph.put("Abs", x), graph.axes(-1), keepdims=1)
    sizes = graph.put("Max", largest, graph.keep("smallest_size", np.array(SMALLEST_SIZE, np.float32)))
    return Operand(build_bounded(graph, graph.put("Div", x, sizes)).values, sizes)


def build_product(
    graph: GraphBuilder,
    name: str,
    operand: Operand,
    weight_MK: FloatArray,
    bias_M: FloatArray | None = None,
    *,
    result: str | None = None,
) -> str:
    """W x + b in float32, [..., M]; the tensor is called `result`, or after `name`. The runtime's own operator, since
    a chain of MatMulInteger, Cast and Mul is only sometimes joined to it."""
    weight_KM, scales_M = quantize_channels(weight_MK)
    unit, zero_point = _unit(graph)
    columns = graph.keep(f"{name}.weight", weight_KM), unit, graph.keep(f"{name}.scales", scales_M), zero_point
    bias = [] if bias_M is None else [graph.keep(f"{name}.bias", bias_M)]
    result = result or f"{graph.prefix}{name}"
    if not operand.sizes:
        given = [operand.values, *columns, "", *bias]
        return graph.add("MatMulIntegerToFloat", given, [result], domain=RUNTIME_DOMAIN)
    product = graph.put("MatMulIntegerToFloat", operand.values, *columns, domain=RUNTIME_DOMAIN)
    if not bias:
        return graph.add("Mul", [product, operand.sizes], [result])
    return graph.add("Add", [graph.put("Mul", product, operand.sizes), *bias], [result])


def _unit(graph: GraphBuilder) -> tuple[str, str]:
    """Scale and zero point of everything between -1 and 1."""
    scale = graph.keep("unit_scale", np.array(1.0 / LEVELS, np.float32))
    return scale, graph.keep("zero_point", np.array(ZERO_POINT, np.uint8))


def _sizes(rows_VK: FloatArray) -> FloatArray:
    """sizes_V1: the largest absolute value of each row."""
    sizes_V1: FloatArray = np.maximum(np.abs(rows_VK).max(axis=1, keepdims=True), np.float32(SMALLEST_SIZE))
    return sizes_V1


def _levels(rows_VK: FloatArray, num_levels: int) -> FloatArray:
    """Whole numbers from -num_levels to num_levels, which each row's largest value meets."""
    levels_VK: FloatArray = np.rint(rows_VK / _sizes(rows_VK) * np.float32(num_levels))
    return levels_VK
