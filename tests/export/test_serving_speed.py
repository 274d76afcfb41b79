"""The serving speed of a trained model is measured through its graphs."""

import numpy as np
import pytest

from carousel.bundle.layout import Array, Rows, StateBatch, StateLayout
from carousel.engine.model import Candidates, Likeliest, TargetScores
from carousel_export import serving_speed
from carousel_export.serving_speed import measure_serving, tokens_per_second
from carousel_training.checkpoint import TrainedModel


class TickingModel:
    """Each step takes a second on its own clock."""

    layout = StateLayout(())
    vocabulary_size = 9

    def __init__(self) -> None:
        self.seconds = 0.0
        self.num_rows: set[int] = set()

    def clock(self) -> float:
        return self.seconds

    def core(self, ids_BT: Array, lengths_B: Array, state: StateBatch) -> tuple[Array, StateBatch]:
        self.seconds += 1.0
        self.num_rows.add(len(ids_BT))
        return np.zeros((len(ids_BT), 1, 4), np.float32), state

    def candidates(self, hidden_NH: Rows, num_candidates: int) -> Candidates:
        rows = hidden_NH.shape[0]
        return Candidates(np.zeros((rows, num_candidates), np.int64), np.zeros((rows, num_candidates)), np.zeros(rows))

    def logits(self, hidden_NH: Rows) -> Array:
        raise NotImplementedError

    def probabilities(self, hidden_NH: Rows, temperatures_N: Array) -> Array:
        raise NotImplementedError

    def likeliest(self, hidden_NH: Rows) -> Likeliest:
        raise NotImplementedError

    def score(self, hidden_NH: Rows, targets_N: Array) -> TargetScores:
        raise NotImplementedError


@pytest.mark.parametrize("num_rows", [1, 64])
def test_the_figure_is_rows_per_step_and_second(num_rows: int) -> None:
    """One step a second is as many tokens a second as there are rows, whatever the warm-up takes."""
    model = TickingModel()
    assert tokens_per_second(model, num_rows, 10.0, model.clock) == num_rows
    assert model.num_rows == {num_rows}


def test_a_trained_model_is_measured_at_every_batch_size(
    trained: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measurement uses real graphs, in a bundle that is gone afterwards."""
    monkeypatch.setattr(serving_speed, "SECONDS", 0.01)
    speeds = measure_serving(trained)
    assert list(speeds) == [1, 64]
    assert min(speeds.values()) > 0.0
