"""Builds products of eight-bit integers in a graph: rounds the factors and restores the float32 result.

Weights have a scale for each output channel. Their factors lie between -1 and 1, either by nature or after a division
by their row's own size, so their scale is always 1/127: nothing is calibrated, and no row depends on another. Sums of
integers are exact in any order. Legend: N rows, K the summed axis, M output channels, V rows of a table.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from carousel_export.graph_builder import RUNTIME_DOMAIN, FloatArray, GraphBuilder

LEVELS = 127  # of activations and tables, on either side of zero
WEIGHT_LEVELS = 63  # two products with 255 must fit 16 bits: older processors add them in pairs
ZERO_POINT = 128  # activations are unsigned, weights signed: processors have an instruction for that pair
SMALLEST_SIZE = 1e-30  # of a row, so that a row of zeros stays a row of zeros


class Operand(NamedTuple):
    """`values` uint8 [..., K] stand for numbers from -1 to 1; `sizes` [..., 1] multiply a row, "" means ones."""

    values: str
    sizes: str = ""


def quantize_channels(weight_MK: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Returns integers [K,M], the layout of the product, and scales_M."""
    scales_M = _sizes(weight_MK)[:, 0] / np.float32(WEIGHT_LEVELS)
    return np.ascontiguousarray(_levels(weight_MK, WEIGHT_LEVELS).astype(np.int8).T), scales_M


def quantize_rows(table_VK: FloatArray) -> tuple[npt.NDArray[np.uint8], FloatArray]:
    """Returns the rows of a table as the values of an Operand, and their sizes_V1."""
    return (_levels(table_VK, LEVELS) + ZERO_POINT).astype(np.uint8), _sizes(table_VK)


def build_bounded(graph: GraphBuilder, x: str) -> Operand:
    """Builds an Operand of values that lie between -1 and 1 by nature."""
    return Operand(graph.put("QuantizeLinear", x, *_unit(graph)))


def build_sized(graph: GraphBuilder, x: str) -> Operand:
    """Builds an Operand of unbounded values: divides each row by its own size, which depends on no other row."""
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
    """Builds W x + b in float32, [..., M], called `result` or after `name`.

    Uses the runtime's own operator, since onnxruntime fuses MatMulInteger, Cast and Mul to it only sometimes.
    """
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
    """Stores scale and zero point of everything between -1 and 1."""
    scale = graph.keep("unit_scale", np.array(1.0 / LEVELS, np.float32))
    return scale, graph.keep("zero_point", np.array(ZERO_POINT, np.uint8))


def _sizes(rows_VK: FloatArray) -> FloatArray:
    """Returns sizes_V1, the largest absolute value of each row."""
    sizes_V1: FloatArray = np.maximum(np.abs(rows_VK).max(axis=1, keepdims=True), np.float32(SMALLEST_SIZE))
    return sizes_V1


def _levels(rows_VK: FloatArray, num_levels: int) -> FloatArray:
    """Rounds to whole numbers from -num_levels to num_levels. Each row's largest value gets one of the two."""
    levels_VK: FloatArray = np.rint(rows_VK / _sizes(rows_VK) * np.float32(num_levels))
    return levels_VK
