"""Logits to a token: pure numpy, one row at a time. The order of the options is the wire contract's.

Randomness is a function of (seed, position) alone, so a replay chooses the same tokens wherever and whenever it runs.

Where nearly all of the probability may be drawn, nothing is sorted: a token is drawn from the whole vocabulary and
drawn again while it is not among those that top_p, top_k and min_p keep, which gives each kept token its exact share
(rejection sampling). Each draw reads the row a few times; a sort of 33,278 logits costs as much as fifty of them.
"""

import collections
import hashlib
import struct
from collections.abc import Sequence

import numpy as np

from carousel.turns import Array, Candidate, Sampling

_MAX_DRAWS = 8  # then the kept tokens are sorted out and drawn from, which is as exact
_BLOCK = 256  # weights that are summed before sums are
_LEAST_TEMPERATURE = 1e-30  # what is smaller chooses no differently, and overflows float32


def choose(logits_V: Array, sampling: Sampling, recent_ids: Sequence[int], position: int) -> int:
    """The id of the next token. `position` is how many tokens stand before it."""
    if sampling.has_penalties or sampling.logit_bias:
        logits_V = _adjust(logits_V, sampling, recent_ids)
    if sampling.temperature == 0:
        return int(np.argmax(logits_V))
    chosen = None if sampling.top_k else _draw_from_all(logits_V, sampling, position)
    return _draw_from_kept(logits_V, sampling, position) if chosen is None else chosen


def draw(seed: int, position: int, attempt: int = 0) -> float:
    """A number in [0, 1), uniform over positions, over seeds and over attempts."""
    key = struct.pack("<Qq", seed, position) if attempt == 0 else struct.pack("<QqB", seed, position, attempt)
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return float((int.from_bytes(digest, "little") >> 11) * 2.0**-53)


def _draw_from_all(logits_V: Array, sampling: Sampling, position: int) -> int | None:
    """A kept token, or None if none of some draws from the whole vocabulary was one."""
    weights_V = _weigh(logits_V, sampling.temperature)
    starts = np.arange(0, len(weights_V), _BLOCK)
    reached = np.cumsum(np.add.reduceat(weights_V, starts), dtype=np.float64)
    for attempt in range(_MAX_DRAWS):
        at = draw(sampling.seed, position, attempt) * float(reached[-1])
        block = min(int(np.searchsorted(reached, at, side="right")), len(starts) - 1)
        first = block * _BLOCK
        inside = np.cumsum(weights_V[first : first + _BLOCK], dtype=np.float64)
        rest = at - (float(reached[block - 1]) if block else 0.0)
        drawn = first + min(int(np.searchsorted(inside, rest, side="right")), len(inside) - 1)
        if _is_kept(weights_V, drawn, sampling, float(reached[-1])):
            return drawn
    return None


def _is_kept(weights_V: Array, token: int, sampling: Sampling, total: float) -> bool:
    """Whether top_p and min_p leave it: the likelier tokens, and equal ones with lower ids, do not reach top_p."""
    weight = weights_V[token]
    if weight == 0 or (sampling.min_p > 0 and weight < sampling.min_p):
        return False
    if sampling.top_p == 1:
        return True
    # A product, since picking the likelier ones out of a flat row takes eight times as long.
    likelier = float(np.einsum("v,v->", weights_V, (weights_V > weight).astype(weights_V.dtype)))
    equal = float(weight) * int(np.count_nonzero(weights_V[:token] == weight))
    return likelier + equal < sampling.top_p * total


def _draw_from_kept(logits_V: Array, sampling: Sampling, position: int) -> int:
    ids_K, weights_K = _truncate(logits_V, sampling)
    cumulative_K = np.cumsum(weights_K)
    at = draw(sampling.seed, position, _MAX_DRAWS) * cumulative_K[-1]
    drawn = int(np.searchsorted(cumulative_K, at, side="right"))
    return int(ids_K[min(drawn, len(ids_K) - 1)])


def _weigh(logits_V: Array, temperature: float) -> Array:
    """Probabilities relative to the likeliest one's. What overflows on the way is as unlikely as can be."""
    with np.errstate(over="ignore", under="ignore"):
        weights_V = logits_V - logits_V.max()
        weights_V /= max(temperature, _LEAST_TEMPERATURE)
        return np.asarray(np.exp(weights_V, out=weights_V))


def rank_candidates(logits_V: Array, num_candidates: int, allowed_ids: Array | None = None) -> tuple[Candidate, ...]:
    """The likeliest tokens with their log-probabilities under the whole vocabulary."""
    log_probs_V = log_probabilities(logits_V)
    ids = np.arange(len(logits_V)) if allowed_ids is None else allowed_ids
    best = ids[_descending(log_probs_V[ids], num_candidates)]
    return tuple(Candidate(int(index), float(log_probs_V[index])) for index in best)


def log_probabilities(logits_V: Array) -> Array:
    shifted_V = logits_V.astype(np.float64) - logits_V.max()
    return np.asarray(shifted_V - np.log(np.exp(shifted_V).sum()))


def _adjust(logits_V: Array, sampling: Sampling, recent_ids: Sequence[int]) -> Array:
    logits_V = logits_V.astype(np.float64)  # the least penalty allowed takes a logit beyond float32
    if recent_ids and sampling.has_penalties:
        counts = collections.Counter(recent_ids)
        ids = np.fromiter(counts.keys(), np.int64)
        values = logits_V[ids]
        values = np.where(values > 0, values / sampling.repetition_penalty, values * sampling.repetition_penalty)
        times = np.fromiter(counts.values(), np.float64)
        logits_V[ids] = values - sampling.presence_penalty - sampling.frequency_penalty * times
    for index, bias in sampling.logit_bias.items():
        logits_V[index] += bias
    return logits_V


def _truncate(logits_V: Array, sampling: Sampling) -> tuple[Array, Array]:
    """Ids that may be drawn, likeliest first, and their weights (unnormalised probabilities)."""
    ids_K = _descending(logits_V, sampling.top_k or len(logits_V))
    weights_K = _weigh(logits_V[ids_K].astype(np.float64), sampling.temperature)
    num_kept = len(ids_K)
    if sampling.top_p < 1:
        cumulative_K = np.cumsum(weights_K)
        num_kept = int(np.searchsorted(cumulative_K, sampling.top_p * cumulative_K[-1])) + 1
    if sampling.min_p > 0:
        num_kept = min(num_kept, int(np.count_nonzero(weights_K >= sampling.min_p)))
    return ids_K[:num_kept], weights_K[:num_kept]


def _descending(values_N: Array, num_wanted: int) -> Array:
    """Indices of the highest values, highest first, the lower index first among equals."""
    if num_wanted >= len(values_N):
        return np.argsort(-values_N, kind="stable")
    threshold = np.partition(values_N, -num_wanted)[-num_wanted]
    eligible = np.flatnonzero(values_N >= threshold)
    return eligible[np.argsort(-values_N[eligible], kind="stable")][:num_wanted]
