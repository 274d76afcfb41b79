"""Logits to a token: pure numpy, one row at a time. The order of the options is the wire contract's.

Randomness is a function of (seed, position) alone, so a replay chooses the same tokens wherever and whenever it runs.
"""

import collections
import hashlib
import struct
from collections.abc import Sequence

import numpy as np

from carousel.turns import Array, Candidate, Sampling


def choose(logits_V: Array, sampling: Sampling, recent_ids: Sequence[int], position: int) -> int:
    """The id of the next token. `position` is how many tokens stand before it."""
    if sampling.has_penalties or sampling.logit_bias:
        logits_V = _adjust(logits_V, sampling, recent_ids)
    if sampling.temperature == 0:
        return int(np.argmax(logits_V))
    ids_K, weights_K = _truncate(logits_V, sampling)
    cumulative_K = np.cumsum(weights_K)
    drawn = np.searchsorted(cumulative_K, draw(sampling.seed, position) * cumulative_K[-1], side="right")
    return int(ids_K[min(int(drawn), len(ids_K) - 1)])


def draw(seed: int, position: int) -> float:
    """A number in [0, 1), uniform over positions and over seeds."""
    digest = hashlib.blake2b(struct.pack("<Qq", seed, position), digest_size=8).digest()
    return float((int.from_bytes(digest, "little") >> 11) * 2.0**-53)


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
    below_K = logits_V[ids_K].astype(np.float64) - float(logits_V[ids_K[0]])
    with np.errstate(over="ignore"):  # a tiny temperature takes all but the likeliest to minus infinity
        weights_K = np.exp(below_K / sampling.temperature)
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
