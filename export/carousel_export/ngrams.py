"""Exports hashed n-grams: the rows of a table that each step adds to its token's embedding.

Every operator works value by value, so that a row keeps its bits in any batch. Legend: B lanes, T steps, E embedding
width.
"""

import numpy as np

from carousel_export.graph_builder import GraphBuilder, to_array
from carousel_export.remembered_ids import build_remembered_ids
from carousel_training.ngrams import FACTOR, PRIME, NgramEmbedding


def build_with_ngrams(graph: GraphBuilder, ngrams: NgramEmbedding | None, embedded_TBE: str) -> str:
    """Builds x_TBE, the sum of the embeddings and their n-grams' rows; without n-grams, the embeddings as they are."""
    if ngrams is None:
        return embedded_TBE
    table = graph.keep("ngrams.table", to_array(ngrams.weight))
    for rows_TB in _build_rows(graph, ngrams):
        embedded_TBE = graph.put("Add", embedded_TBE, graph.put("Gather", table, rows_TB, axis=0))
    return embedded_TBE


def _build_rows(graph: GraphBuilder, ngrams: NgramEmbedding) -> list[str]:
    """Builds each size's rows_TB of the table, as `NgramEmbedding.find_rows` does."""
    ids_SB = graph.put("Transpose", build_remembered_ids(graph, ngrams.state_tensor), perm=[1, 0])
    values_SB = graph.put("Add", ids_SB, _number(graph, "one", 1))
    factor, prime = _number(graph, "factor", FACTOR), _number(graph, "prime", PRIME)
    num_buckets = _number(graph, "num_buckets", ngrams.num_buckets)
    hash_TB, rows = _slice(graph, ngrams, values_SB, 0), []
    for distance in range(1, ngrams.order):
        earlier_TB = _slice(graph, ngrams, values_SB, distance)
        sum_TB = graph.put("Add", graph.put("Mul", hash_TB, factor), earlier_TB)
        hash_TB = graph.put("Mod", sum_TB, prime)
        first = _number(graph, f"first_{distance}", (distance - 1) * ngrams.num_buckets)
        rows.append(graph.put("Add", graph.put("Mod", hash_TB, num_buckets), first))
    return rows


def _slice(graph: GraphBuilder, ngrams: NgramEmbedding, values_SB: str, distance: int) -> str:
    """Builds, for each of the T steps, the value `distance` steps before it."""
    start = _number(graph, f"from_{distance}", ngrams.num_context - distance, is_list=True)
    end = _number(graph, f"to_{distance}", -distance or np.iinfo(np.int64).max, is_list=True)
    return graph.put("Slice", values_SB, start, end, graph.axes(0))


def _number(graph: GraphBuilder, name: str, value: int, *, is_list: bool = False) -> str:
    return graph.keep(f"ngrams.{name}", np.array([value] if is_list else value, np.int64))
