"""Chooses tokens from logits or probabilities, in pure numpy. No row's token depends on other rows. The order of the
options is the wire contract's.

Randomness is a function of (seed, position) alone, so a replay chooses the same tokens anywhere and at any time.

Where tokens with nearly all of the probability are kept, nothing is sorted. A token is drawn from the whole vocabulary,
and again while top_p, top_k and min_p do not keep it. This gives each kept token its exact share (rejection sampling).
Each draw reads the row a few times; a sort of 33,278 logits costs as much as fifty draws.
"""

import collections
import hashlib
import struct
from collections.abc import Sequence

import numpy as np

from carousel.turns import Array, Candidate, Sampling

_MAX_DRAWS = 8  # after these, the row is sorted and drawn from the kept tokens, which is as exact
_ROWS = 16  # drawn together: 2 MB of weights for a vocabulary of 33,278
_BLOCK = 256  # weights per partial sum
_LEAST_TEMPERATURE = 1e-30  # a smaller one chooses the same tokens, and overflows float32
_LEAST_PLAIN_TEMPERATURE = 1e-3  # below it, logits over temperature could overflow before the maximum is subtracted


def is_plain(sampling: Sampling) -> bool:
    """Whether a choice needs only the probabilities at the temperature: then `draw_all` makes it."""
    is_adjusted = sampling.has_penalties or bool(sampling.logit_bias)
    return not is_adjusted and sampling.top_k == 0 and sampling.temperature >= _LEAST_PLAIN_TEMPERATURE


def choose(logits_V: Array, sampling: Sampling, recent_ids: Sequence[int], position: int) -> int:
    """Returns the id of the next token; `position` is the number of tokens before it."""
    if sampling.has_penalties or sampling.logit_bias:
        logits_V = _adjust(logits_V, sampling, recent_ids)
    if sampling.temperature == 0:
        return int(np.argmax(logits_V))
    if sampling.top_k:
        ids_K = _descending(logits_V, sampling.top_k)
        weights_K = weigh(logits_V[ids_K].astype(np.float64)[None], [sampling.temperature])[0]
        return _draw_from_kept(ids_K, weights_K, sampling, position)
    return draw_all(weigh(logits_V[None], [sampling.temperature]), [sampling], [position])[0]


def weigh(logits_NV: Array, temperatures_N: Sequence[float]) -> Array:
    """Returns probabilities relative to the row's likeliest token. Where it overflows, the weight is 0."""
    temperatures_N1 = np.maximum(temperatures_N, _LEAST_TEMPERATURE)[:, None].astype(logits_NV.dtype)
    with np.errstate(over="ignore", under="ignore"):
        weights_NV = logits_NV - logits_NV.max(axis=1, keepdims=True)
        weights_NV /= temperatures_N1
        return np.asarray(np.exp(weights_NV, out=weights_NV))


def draw_all(weights_NV: Array, samplings: Sequence[Sampling], positions: Sequence[int]) -> list[int]:
    """Draws a token for each row from weights at its temperature, of any scale. A row's token is the same in any batch.
    Of each sampling it uses only seed, top_p and min_p."""
    tokens: list[int] = []
    for first in range(0, len(positions), _ROWS):
        rows = slice(first, first + _ROWS)
        tokens += _draw(weights_NV[rows], samplings[rows], positions[rows])
    return tokens


def select_rows(array_NV: Array, rows: Sequence[int]) -> Array:
    """Returns the rows, which must be ascending; does not copy adjacent rows."""
    if rows and rows[-1] - rows[0] + 1 == len(rows):
        return array_NV[rows[0] : rows[-1] + 1]
    return array_NV[list(rows)]


def draw(seed: int, position: int, attempt: int = 0) -> float:
    """Returns a number in [0, 1), uniform over positions, over seeds and over attempts."""
    key = struct.pack("<Qq", seed, position) if attempt == 0 else struct.pack("<QqB", seed, position, attempt)
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return float((int.from_bytes(digest, "little") >> 11) * 2.0**-53)


def _draw(weights_NV: Array, samplings: Sequence[Sampling], positions: Sequence[int]) -> list[int]:
    """Draws a kept token for each row. Legend: B blocks of the vocabulary."""
    starts_B = np.arange(0, weights_NV.shape[1], _BLOCK)
    reached_NB = np.cumsum(np.add.reduceat(weights_NV, starts_B, axis=1), axis=1, dtype=np.float64)
    chosen: dict[int, int] = {}
    for attempt in range(_MAX_DRAWS):
        left = [row for row in range(len(positions)) if row not in chosen]
        draws = [draw(samplings[row].seed, positions[row], attempt) for row in left]
        tokens = [_pick(weights_NV[row], reached_NB[row], at) for row, at in zip(left, draws, strict=True)]
        is_kept = _are_kept(
            select_rows(weights_NV, left), tokens, [samplings[row] for row in left], reached_NB[left, -1]
        )
        chosen |= {row: token for row, token, kept in zip(left, tokens, is_kept, strict=True) if kept}
        if len(chosen) == len(positions):
            break
    for row in range(len(positions)):
        if row not in chosen:
            ids_V = _descending(weights_NV[row], weights_NV.shape[1])
            chosen[row] = _draw_from_kept(ids_V, weights_NV[row, ids_V], samplings[row], positions[row])
    return [chosen[row] for row in range(len(positions))]


def _pick(weights_V: Array, reached_B: Array, share: float) -> int:
    """Returns the token at which the cumulative weights reach that share of the total."""
    at = share * float(reached_B[-1])
    block = min(int(reached_B.searchsorted(at, side="right")), len(reached_B) - 1)
    first = block * _BLOCK
    inside = weights_V[first : first + _BLOCK].cumsum(dtype=np.float64)
    rest = at - (float(reached_B[block - 1]) if block else 0.0)
    return first + min(int(inside.searchsorted(rest, side="right")), len(inside) - 1)


def _are_kept(weights_NV: Array, tokens: Sequence[int], samplings: Sequence[Sampling], totals_N: Array) -> list[bool]:
    """Whether top_p and min_p keep each row's token. The weight of all tokens that are at least as likely nearly always
    decides it."""
    if all(sampling.top_p == 1 for sampling in samplings):
        reached_N = np.zeros(len(tokens))
    else:
        weights_N1 = weights_NV[np.arange(len(tokens)), tokens][:, None]
        # A product, because selecting the likelier tokens of a flat row takes eight times as long.
        reached_N = np.einsum("nv,nv->n", weights_NV, (weights_NV >= weights_N1).astype(weights_NV.dtype))
    rows = zip(weights_NV, tokens, samplings, totals_N.tolist(), reached_N.tolist(), strict=True)
    return [
        _is_kept(weights_V, token, sampling, total, is_sure=reached < sampling.top_p * total)
        for weights_V, token, sampling, total, reached in rows
    ]


def _is_kept(weights_V: Array, token: int, sampling: Sampling, total: float, *, is_sure: bool) -> bool:
    """Whether the likelier tokens, and equal ones with lower ids, stay below top_p."""
    weight = weights_V[token]
    if weight == 0 or (sampling.min_p > 0 and weight < sampling.min_p * weights_V.max()):
        return False
    if sampling.top_p == 1 or is_sure:
        return True
    likelier = float(np.einsum("v,v->", weights_V, (weights_V > weight).astype(weights_V.dtype)))
    equal = float(weight) * int(np.count_nonzero(weights_V[:token] == weight))
    return likelier + equal < sampling.top_p * total


def _draw_from_kept(ids_K: Array, weights_K: Array, sampling: Sampling, position: int) -> int:
    """Draws one of the ids that top_p and min_p keep. The ids come likeliest first."""
    cumulative_K = np.cumsum(weights_K, dtype=np.float64)
    num_kept = len(ids_K)
    if sampling.top_p < 1:
        num_kept = int(np.searchsorted(cumulative_K, sampling.top_p * cumulative_K[-1])) + 1
    if sampling.min_p > 0:
        num_kept = min(num_kept, int(np.count_nonzero(weights_K >= sampling.min_p * weights_K[0])))
    at = draw(sampling.seed, position, _MAX_DRAWS) * cumulative_K[num_kept - 1]
    return int(ids_K[min(int(np.searchsorted(cumulative_K, at, side="right")), num_kept - 1)])


def rank_candidates(logits_V: Array, num_candidates: int, allowed_ids: Array | None = None) -> tuple[Candidate, ...]:
    """Returns the likeliest tokens with their log-probabilities over the whole vocabulary."""
    log_probs_V = log_probabilities(logits_V)
    ids = np.arange(len(logits_V)) if allowed_ids is None else allowed_ids
    best = ids[_descending(log_probs_V[ids], num_candidates)]
    return tuple(Candidate(int(index), float(log_probs_V[index])) for index in best)


def log_probabilities(logits_V: Array) -> Array:
    shifted_V = logits_V.astype(np.float64) - logits_V.max()
    return np.asarray(shifted_V - np.log(np.exp(shifted_V).sum()))


def _adjust(logits_V: Array, sampling: Sampling, recent_ids: Sequence[int]) -> Array:
    logits_V = logits_V.astype(np.float64)  # the smallest allowed penalty takes a logit beyond float32
    if recent_ids and sampling.has_penalties:
        counts = collections.Counter(recent_ids)
        ids = np.fromiter(counts.keys(), np.int64)
        values = logits_V[ids]
        values = np.where(values > 0, values / sampling.repetition_penalty, values * sampling.repetition_penalty)
        times = np.fromiter(counts.values(), np.float64)
        logits_V[ids] = values - sampling.presence_penalty - sampling.frequency_penalty * times
    for index, bias in sampling.logit_bias:
        logits_V[index] += bias
    return logits_V


def _descending(values_N: Array, num_wanted: int) -> Array:
    """Returns the indices of the highest values, highest first; among equals, the lower index first."""
    if num_wanted >= len(values_N):
        return np.argsort(-values_N, kind="stable")
    threshold = np.partition(values_N, -num_wanted)[-num_wanted]
    eligible = np.flatnonzero(values_N >= threshold)
    return eligible[np.argsort(-values_N[eligible], kind="stable")][:num_wanted]
