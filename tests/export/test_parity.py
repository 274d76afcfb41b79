"""The export's check passes what is right, and catches every kind of wrong."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from carousel.bundle.layout import Array, Rows, StateBatch
from carousel.bundle.manifest import Bundle
from carousel.engine.model import Candidates, Likeliest, OnnxModel, TargetScores
from carousel_export.bundle_writer import write_files
from carousel_export.held_out import Perplexities
from carousel_export.parity import Check, ParityReport, check_parity, check_rounded, plan_turns
from carousel_export.precision import Precision
from carousel_training.checkpoint import TrainedModel


class Flawed:
    """A served model with one result changed by `flaw(name, result)`."""

    def __init__(self, model: OnnxModel, flaw: Callable[[str, Array], Array]) -> None:
        self._model = model
        self._flaw = flaw
        self.layout = model.layout
        self.vocabulary_size = model.vocabulary_size

    def core(self, ids_BT: Array, lengths_B: Array, state: StateBatch) -> tuple[Array, StateBatch]:
        hidden_BTH, state_next = self._model.core(ids_BT, lengths_B, state)
        name = "alone" if len(ids_BT) == 1 else "together"
        changed = (self._flaw(f"state {index}", np.asarray(tensor)) for index, tensor in enumerate(state_next))
        return self._flaw(name, np.asarray(hidden_BTH)), tuple(changed)

    def logits(self, hidden_NH: Rows) -> Array:
        return self._flaw("logits", self._model.logits(hidden_NH))

    def probabilities(self, hidden_NH: Rows, temperatures_N: Array) -> Array:
        return self._flaw("probabilities", self._model.probabilities(hidden_NH, temperatures_N))

    def likeliest(self, hidden_NH: Rows) -> Likeliest:
        return self._model.likeliest(hidden_NH)

    def candidates(self, hidden_NH: Rows, num_candidates: int) -> Candidates:
        found = self._model.candidates(hidden_NH, num_candidates)
        return Candidates(
            self._flaw("ids", found.ids_NK), found.logits_NK, self._flaw("normalizer", found.log_normalizer_N)
        )

    def score(self, hidden_NH: Rows, targets_N: Array) -> TargetScores:
        found = self._model.score(hidden_NH, targets_N)
        return TargetScores(self._flaw("scores", found.log_probs_N), self._flaw("ranks", found.ranks_N))


@pytest.fixture
def served(trained: TrainedModel, tmp_path: Path) -> OnnxModel:
    write_files(trained, tmp_path, "model")
    return OnnxModel(Bundle.load(tmp_path))


def test_a_faithful_bundle_passes(trained: TrainedModel, served: OnnxModel) -> None:
    """Every check holds, with room to spare, and the exact ones are exact."""
    report = check_parity(trained.model, served, 0)
    assert report.holds, report.failures()
    assert report.failures() == ""
    assert len(report.checks) == 9


@pytest.mark.parametrize(
    ("name", "change", "check"),
    [
        ("logits", 2e-4, "logits, largest difference"),
        ("logits", float("nan"), "logits, largest difference"),
        ("state 0", 2e-4, "state, largest difference"),
        ("state 3", 2e-4, "state, largest difference"),
        ("normalizer", 2e-2, "log normaliser"),
        ("ids", 1, "candidates out of order"),
        ("ids", 1, "greedy tokens of 256"),
        ("scores", 2e-4, "target scores"),
        ("ranks", 1, "target ranks"),
        ("probabilities", 2e-4, "probabilities, largest difference"),
        ("together", 1e-7, "rows that depend on their batch"),
    ],
)
def test_every_flaw_is_caught(trained: TrainedModel, served: OnnxModel, name: str, change: float, check: str) -> None:
    """A result that is off by a little more than is allowed fails the check that is meant for it."""

    def flaw(found: str, result: Array) -> Array:
        return result + np.asarray(change, dtype=result.dtype) if found == name else result

    report = check_parity(trained.model, Flawed(served, flaw), 0)
    assert not report.holds
    assert check in report.failures()


@pytest.fixture
def rounded(trained: TrainedModel, tmp_path: Path) -> OnnxModel:
    (tmp_path / "int8").mkdir()
    write_files(trained, tmp_path / "int8", "model", Precision.INT8)
    return OnnxModel(Bundle.load(tmp_path / "int8"))


def test_a_rounded_bundle_is_held_to_its_perplexity(trained: TrainedModel, rounded: OnnxModel) -> None:
    """It passes with a small rise, or a fall, and not with a large one, whatever its logits are."""
    assert not check_parity(trained.model, rounded, 0).holds
    for ratio, holds in ((0.99, True), (1.009, True), (1.011, False), (float("nan"), False)):
        report = check_rounded(rounded, Perplexities(20.0, 20.0 * ratio), 0.01)
        assert report.holds is holds
        assert len(report.checks) == 7


@pytest.mark.parametrize(
    ("name", "change", "check"),
    [
        ("normalizer", 2e-2, "log normaliser"),
        ("ids", 1, "candidates out of order"),
        ("scores", 2e-4, "target scores"),
        ("ranks", 1, "target ranks"),
        ("together", 1e-7, "rows that depend on their batch"),
    ],
)
def test_what_is_not_rounding_is_still_caught(rounded: OnnxModel, name: str, change: float, check: str) -> None:
    """A bundle with eight-bit products may have another perplexity and no other difference."""

    def flaw(found: str, result: Array) -> Array:
        return result + np.asarray(change, dtype=result.dtype) if found == name else result

    report = check_rounded(Flawed(rounded, flaw), Perplexities(20.0, 20.0), 0.01)
    assert not report.holds
    assert check in report.failures()


def test_a_value_that_is_not_a_number_never_holds() -> None:
    """NaN is not at most anything, so it never passes."""
    assert not Check("x", float("nan"), 1.0).holds
    assert ParityReport((Check("x", 0.0, 0.0),)).holds


def test_turns_are_ragged_shuffled_and_of_several_sizes() -> None:
    """The comparison covers what a server does: every lane in every round, in changing company."""
    turns = plan_turns(29, np.random.default_rng(0))
    sizes = {len(turn.lanes_B) for turn in turns}
    assert {1, 2, 3, 7, 16, 24} <= sizes
    assert any(len(set(turn.lengths_B.tolist())) > 3 for turn in turns)
    assert any(np.any(np.diff(turn.lanes_B) < 0) for turn in turns)
    counts = np.bincount(np.concatenate([turn.lanes_B for turn in turns]))
    assert set(counts.tolist()) == {12}
