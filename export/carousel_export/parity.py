"""Compares a bundle, run by the server's own model class, with the network it was made from.

The comparison decides whether a bundle may be published, and has a figure for each check. In float32, logits, states
and words must be the network's; with eight-bit products, perplexity must be close. In both, what the head derives from
its logits must be right, and no row may depend on its batch. Legend: B lanes, T steps, V vocabulary, N rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from carousel.bundle.layout import Array, StateBatch
from carousel.engine.model import StepModel
from carousel_export.held_out import Perplexities
from carousel_training.model import RecurrentLM

TOLERANCE = 1e-4  # largest difference between two logits
GREEDY_TOKENS = 256
NUM_LANES = 24
NUM_ROUNDS = 12
MAX_LENGTH = 9
NUM_CANDIDATES = 16
BATCH_SIZES = (1, 2, 3, 7, 16, NUM_LANES)


@dataclass(frozen=True, slots=True)
class Check:
    """One figure and the highest value at which the check holds."""

    name: str
    value: float
    bound: float

    @property
    def holds(self) -> bool:
        return self.value <= self.bound  # false for a NaN


@dataclass(frozen=True, slots=True)
class ParityReport:
    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        return all(check.holds for check in self.checks)

    def failures(self) -> str:
        wrong = [f"{check.name} {check.value:.3g} (at most {check.bound:.3g})" for check in self.checks]
        return "; ".join(text for text, check in zip(wrong, self.checks, strict=True) if not check.holds)


@dataclass(frozen=True, slots=True)
class Turn:
    """One ragged call: lanes in an order, and the tokens of each. Rows are padded on the right with 0."""

    lanes_B: Array
    ids_BT: Array
    lengths_B: Array


@dataclass(frozen=True, slots=True)
class Call:
    """The served model's results of a turn."""

    turn: Turn
    before: StateBatch
    hidden_BTH: Array
    after: StateBatch

    def hidden(self) -> list[Array]:
        """Returns hidden_TH of each row, without padding."""
        return [hidden_TH[:length] for hidden_TH, length in zip(self.hidden_BTH, self.turn.lengths_B, strict=True)]


def check_parity(trained: RecurrentLM, served: StepModel, start_id: int) -> ParityReport:
    """Compares a float32 bundle with its network.

    Covers carried states, several batch sizes, ragged lengths and shuffled lanes, greedy continuations, and rows that
    must be bit-identical in any batch.
    """
    turns = plan_turns(served.vocabulary_size, np.random.default_rng(0))
    logits_error, state_error, hidden_NH = _compare_turns(trained, served, turns)
    return ParityReport(
        (
            Check("logits, largest difference", logits_error, TOLERANCE),
            Check("state, largest difference", state_error, TOLERANCE),
            Check(f"greedy tokens of {GREEDY_TOKENS} that differ", _greedy_differences(trained, served, start_id), 0),
            *_own_checks(served, turns, hidden_NH),
        )
    )


def check_rounded(served: StepModel, perplexities: Perplexities, max_rise: float) -> ParityReport:
    """Checks a bundle that rounds: perplexity may rise by the share `max_rise`; all other checks are the usual ones."""
    turns = plan_turns(served.vocabulary_size, np.random.default_rng(0))
    rise = Check("rise of perplexity over float32", perplexities.ratio - 1.0, max_rise)
    hidden_NH = np.concatenate([hidden for call in _calls(served, turns) for hidden in call.hidden()])
    return ParityReport((rise, *_own_checks(served, turns, hidden_NH)))


def _own_checks(served: StepModel, turns: list[Turn], hidden_NH: Array) -> tuple[Check, ...]:
    """Checks what the head derives from its logits, and that rows are bit-identical in any batch."""
    return (
        Check("log normaliser, largest difference", _normalizer_error(served, hidden_NH), TOLERANCE),
        Check("candidates out of order", _wrong_candidates(served, hidden_NH), 0),
        Check("target scores, largest difference", _target_error(served, hidden_NH), TOLERANCE),
        Check("target ranks that differ", _wrong_ranks(served, hidden_NH), 0),
        Check("probabilities, largest difference", _probability_error(served, hidden_NH), TOLERANCE),
        Check("rows that depend on their batch", _dependent_rows(served, turns), 0),
    )


def plan_turns(vocabulary_size: int, rng: np.random.Generator) -> list[Turn]:
    """Plans rounds in which every lane consumes a few tokens, in batches of several sizes over shuffled lanes."""
    turns = []
    for round_index in range(NUM_ROUNDS):
        size = BATCH_SIZES[round_index % len(BATCH_SIZES)]
        order = rng.permutation(NUM_LANES)
        for start in range(0, NUM_LANES, size):
            lanes_B = order[start : start + size]
            lengths_B = rng.integers(1, MAX_LENGTH + 1, len(lanes_B)).astype(np.int32)
            ids_BT = rng.integers(0, vocabulary_size, (len(lanes_B), int(lengths_B.max())))
            ids_BT[np.arange(ids_BT.shape[1])[None, :] >= lengths_B[:, None]] = 0
            turns.append(Turn(lanes_B, ids_BT.astype(np.int64), lengths_B))
    return turns


def _calls(served: StepModel, turns: list[Turn]) -> Iterator[Call]:
    """Runs the turns in order. Each lane continues from its last state."""
    batch = [np.asarray(tensor) for tensor in served.layout.initial(NUM_LANES)]
    for turn in turns:
        before = tuple(tensor[turn.lanes_B] for tensor in batch)
        hidden_BTH, after = served.core(turn.ids_BT, turn.lengths_B, before)
        for tensor, values in zip(batch, after, strict=True):
            tensor[turn.lanes_B] = values
        yield Call(turn, before, np.asarray(hidden_BTH), after)


def _compare_turns(trained: RecurrentLM, served: StepModel, turns: list[Turn]) -> tuple[float, float, Array]:
    """Returns the largest difference of logits and of states, and the served hidden vectors after each token.

    The network runs each lane alone, without padding; the served model runs the batches.
    """
    alone = [trained.initial_state(1) for _ in range(NUM_LANES)]
    logits_error = state_error = 0.0
    hidden = []
    for call in _calls(served, turns):
        hidden += call.hidden()
        for row, lane in enumerate(call.turn.lanes_B):
            ids_1T = torch.from_numpy(call.turn.ids_BT[row : row + 1, : call.turn.lengths_B[row]])
            with torch.no_grad():
                expected_1TV, alone[lane] = trained(ids_1T, alone[lane])
            logits_error = _worst(logits_error, served.logits(call.hidden()[row]) - expected_1TV[0].numpy())
            pairs = zip(call.after, alone[lane], strict=True)
            state_error = _worst(state_error, *(_deviation(found[row], known[0].numpy()) for found, known in pairs))
    return logits_error, state_error, np.concatenate(hidden)


def _normalizer_error(served: StepModel, hidden_NH: Array) -> float:
    """Compares with torch, also where exp() alone would overflow (in float32; int8 has no vector above 1)."""
    large_NH = np.concatenate([hidden_NH, hidden_NH * np.float32(100.0)])
    found_N = served.candidates(large_NH, 1).log_normalizer_N
    logits_NV = torch.from_numpy(served.logits(large_NH)).double()
    expected_N = torch.logsumexp(logits_NV, dim=1).numpy()
    return _worst(0.0, (found_N - expected_N) / np.maximum(1.0, np.abs(expected_N)))


def _wrong_candidates(served: StepModel, hidden_NH: Array) -> float:
    """Counts entries that differ from a stable sort: highest first, the lower id first among equals."""
    count = min(NUM_CANDIDATES, served.vocabulary_size)
    found = served.candidates(hidden_NH, count)
    logits_NV = served.logits(hidden_NH)
    expected_NK = np.argsort(-logits_NV, axis=1, kind="stable")[:, :count]
    wrong = np.sum(found.ids_NK != expected_NK)
    return float(wrong + np.sum(found.logits_NK != np.take_along_axis(logits_NV, expected_NK, axis=1)))


def _targets(served: StepModel, num_rows: int) -> Array:
    return np.random.default_rng(1).integers(0, served.vocabulary_size, num_rows)


def _target_error(served: StepModel, hidden_NH: Array) -> float:
    targets_N = _targets(served, len(hidden_NH))
    logits_NV = torch.from_numpy(served.logits(hidden_NH)).double()
    expected_N = torch.log_softmax(logits_NV, dim=1).numpy()[np.arange(len(targets_N)), targets_N]
    return _worst(0.0, served.score(hidden_NH, targets_N).log_probs_N - expected_N)


def _wrong_ranks(served: StepModel, hidden_NH: Array) -> float:
    targets_N = _targets(served, len(hidden_NH))
    logits_NV = served.logits(hidden_NH)
    above_N = np.sum(logits_NV > logits_NV[np.arange(len(targets_N)), targets_N][:, None], axis=1)
    return float(np.sum(served.score(hidden_NH, targets_N).ranks_N != above_N + 1))


def _probability_error(served: StepModel, hidden_NH: Array) -> float:
    temperatures_N = _temperatures(len(hidden_NH))
    tempered_NV = torch.from_numpy(served.logits(hidden_NH)).double() / torch.from_numpy(temperatures_N)[:, None]
    return _worst(0.0, served.probabilities(hidden_NH, temperatures_N) - torch.softmax(tempered_NV, dim=1).numpy())


def _temperatures(num_rows: int) -> Array:
    return np.geomspace(0.1, 3.0, num_rows).astype(np.float32)


def _greedy_differences(trained: RecurrentLM, served: StepModel, start_id: int) -> float:
    """Counts the steps at which the two choose different words.

    Steps whose two best logits lie within the tolerance do not count. Both models continue with the network's word, so
    that one close call does not separate them for good.
    """
    token, state = start_id, served.layout.initial(1)
    theirs = trained.initial_state(1)
    differences = 0
    for _ in range(GREEDY_TOKENS):
        ids_BT = np.array([[token]], np.int64)
        hidden_BTH, state = served.core(ids_BT, np.ones(1, np.int32), state)
        with torch.no_grad():
            logits_BTV, theirs = trained(torch.from_numpy(ids_BT), theirs)
        best, second = torch.topk(logits_BTV[0, 0], 2).values.tolist()
        token = int(logits_BTV[0, 0].argmax())
        is_close_call = best - second <= TOLERANCE
        differences += not is_close_call and int(served.candidates(hidden_BTH[0], 1).ids_NK[0, 0]) != token
    return float(differences)


def _dependent_rows(served: StepModel, turns: list[Turn]) -> float:
    """Counts the rows of which any served value changes by a single bit when they run alone and unpadded."""
    dependent = 0
    for call in _calls(served, turns):
        lengths_B, hidden = call.turn.lengths_B, call.hidden()
        last_BH = np.stack([hidden_TH[-1] for hidden_TH in hidden])
        temperatures_B = _temperatures(len(last_BH))
        together = _heads(served, last_BH, temperatures_B)
        for row, length in enumerate(lengths_B):
            cut = slice(row, row + 1)
            alone_1TH, alone_next = served.core(
                call.turn.ids_BT[cut, :length], lengths_B[cut], tuple(tensor[cut] for tensor in call.before)
            )
            pairs = [(alone_1TH[0], hidden[row])]
            alone = _heads(served, last_BH[cut], temperatures_B[cut])
            pairs += [(a[0], b[row]) for a, b in zip(alone, together, strict=True)]
            pairs += [(a[0], b[row]) for a, b in zip(alone_next, call.after, strict=True)]
            dependent += not all(np.array_equal(a, b) for a, b in pairs)
    return float(dependent)


def _heads(served: StepModel, hidden_NH: Array, temperatures_N: Array) -> list[Array]:
    """Returns all outputs of the head."""
    targets_N = np.zeros(len(hidden_NH), np.int64)
    return [
        served.logits(hidden_NH),
        served.probabilities(hidden_NH, temperatures_N),
        *served.candidates(hidden_NH, NUM_CANDIDATES),
        *served.score(hidden_NH, targets_N),
    ]


def _deviation(found: Array, expected: Array) -> Array:
    """Returns differences, relative for values above 1: the memory of a cell that never forgets grows with the text."""
    return np.asarray((found - expected) / np.maximum(1.0, np.abs(expected)))


def _worst(so_far: float, *differences: Array) -> float:
    """Returns the largest difference so far. NaN stays NaN, so that it never passes for a small difference."""
    return float(np.max([so_far, *(np.max(np.abs(difference)) for difference in differences)]))
