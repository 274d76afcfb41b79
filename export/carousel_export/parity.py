"""Compares a bundle, run by the server's own model class, with the network it was made from, both in float32.

It decides whether a bundle may be published, and says by how much. Legend: B lanes, T steps, V vocabulary, N rows.
"""

from dataclasses import dataclass

import numpy as np
import torch

from carousel.bundle.layout import Array, StateBatch
from carousel.engine.model import StepModel
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
    """One figure and its bound; equal to the bound is still right."""

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
    """One ragged call: which lanes, in which order, and what each consumes. Rows are padded on the right with 0."""

    lanes_B: Array
    ids_BT: Array
    lengths_B: Array


def check_parity(trained: RecurrentLM, served: StepModel, start_id: int) -> ParityReport:
    """Differences over carried states, several batch sizes, ragged lengths and shuffled lanes; greedy continuations;
    equal bits whoever shares the batch."""
    turns = plan_turns(served.vocabulary_size, np.random.default_rng(0))
    logits_error, state_error, hidden = _compare_turns(trained, served, turns)
    hidden_NH = np.concatenate(hidden)
    return ParityReport(
        (
            Check("logits, largest difference", logits_error, TOLERANCE),
            Check("state, largest difference", state_error, TOLERANCE),
            Check("log normaliser, largest difference", _normalizer_error(trained, served, hidden_NH), TOLERANCE),
            Check("candidates out of order", _wrong_candidates(served, hidden_NH), 0),
            Check("target scores, largest difference", _target_error(served, hidden_NH), TOLERANCE),
            Check("target ranks that differ", _wrong_ranks(served, hidden_NH), 0),
            Check(f"greedy tokens of {GREEDY_TOKENS} that differ", _greedy_differences(trained, served, start_id), 0),
            Check("rows that depend on their batch", _dependent_rows(served, turns), 0),
        )
    )


def plan_turns(vocabulary_size: int, rng: np.random.Generator) -> list[Turn]:
    """Rounds in which every lane consumes a few tokens, in batches of several sizes over shuffled lanes."""
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


def _compare_turns(trained: RecurrentLM, served: StepModel, turns: list[Turn]) -> tuple[float, float, list[Array]]:
    """Largest difference of logits and of states, and the served hidden vectors, N rows per turn. The network runs
    each lane alone, without padding; the served model runs the batches."""
    batch = served.layout.initial(NUM_LANES)
    alone = [trained.initial_state(1) for _ in range(NUM_LANES)]
    logits_error = state_error = 0.0
    hidden = []
    for turn in turns:
        hidden_BTH, state_next = served.core(turn.ids_BT, turn.lengths_B, tuple(t[turn.lanes_B] for t in batch))
        _scatter(batch, turn.lanes_B, state_next)
        for row, lane in enumerate(turn.lanes_B):
            length = turn.lengths_B[row]
            with torch.no_grad():
                expected_1TV, alone[lane] = trained(torch.from_numpy(turn.ids_BT[row : row + 1, :length]), alone[lane])
            hidden.append(hidden_BTH[row, :length])
            logits_error = _worst(logits_error, served.logits(hidden[-1]) - expected_1TV[0].numpy())
            state_error = _worst(
                state_error, *(_deviation(a[row], b[0].numpy()) for a, b in zip(state_next, alone[lane], strict=True))
            )
    return logits_error, state_error, hidden


def _normalizer_error(trained: RecurrentLM, served: StepModel, hidden_NH: Array) -> float:
    """Against torch, also where logits are so large that exp() alone would overflow."""
    large_NH = np.concatenate([hidden_NH, hidden_NH * np.float32(100.0)])
    found_N = served.candidates(large_NH, 1).log_normalizer_N
    logits_NV = torch.from_numpy(served.logits(large_NH)).double()
    expected_N = torch.logsumexp(logits_NV, dim=1).numpy()
    return _worst(0.0, (found_N - expected_N) / np.maximum(1.0, np.abs(expected_N)))


def _wrong_candidates(served: StepModel, hidden_NH: Array) -> float:
    """Entries that are not those of a stable sort, highest first, the lower id first among equals."""
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


def _greedy_differences(trained: RecurrentLM, served: StepModel, start_id: int) -> float:
    """Steps at which the two would say different words, but for those whose two best logits lie within the tolerance.
    Both go on with the network's word, so that one close call does not part them for good."""
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
    """Rows of which anything that is served changes by a single bit when they run alone and unpadded."""
    batch = served.layout.initial(NUM_LANES)
    dependent = 0
    for turn in turns:
        before = tuple(tensor[turn.lanes_B] for tensor in batch)
        hidden_BTH, state_next = served.core(turn.ids_BT, turn.lengths_B, before)
        last_BH = hidden_BTH[np.arange(len(turn.lanes_B)), turn.lengths_B - 1]
        together = _heads(served, last_BH)
        for row, length in enumerate(turn.lengths_B):
            cut = slice(row, row + 1)
            alone_1TH, alone_next = served.core(
                turn.ids_BT[cut, :length], turn.lengths_B[cut], tuple(tensor[cut] for tensor in before)
            )
            pairs = [(alone_1TH[0], hidden_BTH[row, :length])]
            pairs += [(a[0], b[row]) for a, b in zip(_heads(served, last_BH[cut]), together, strict=True)]
            pairs += [(a[0], b[row]) for a, b in zip(alone_next, state_next, strict=True)]
            dependent += not all(np.array_equal(a, b) for a, b in pairs)
        _scatter(batch, turn.lanes_B, state_next)
    return float(dependent)


def _heads(served: StepModel, hidden_NH: Array) -> list[Array]:
    """All that the head says of each row."""
    targets_N = np.zeros(len(hidden_NH), np.int64)
    return [
        served.logits(hidden_NH),
        *served.candidates(hidden_NH, NUM_CANDIDATES),
        *served.score(hidden_NH, targets_N),
    ]


def _scatter(batch: StateBatch, lanes_B: Array, rows: StateBatch) -> None:
    for tensor, values in zip(batch, rows, strict=True):
        tensor[lanes_B] = values


def _deviation(found: Array, expected: Array) -> Array:
    """Relative where a value is above 1: the memory of a cell that never forgets grows with the text."""
    return np.asarray((found - expected) / np.maximum(1.0, np.abs(expected)))


def _worst(so_far: float, *differences: Array) -> float:
    """NaN stays NaN, so that it cannot pass for small."""
    return float(np.max([so_far, *(np.max(np.abs(difference)) for difference in differences)]))
