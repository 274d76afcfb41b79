"""A study measures how far back a loss reaches."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from carousel_training.cells.registry import CELLS
from carousel_training.errors import CorpusError
from carousel_training.model import ModelConfig, RecurrentLM
from carousel_training.settings import Settings
from carousel_training.studies.gradients import (
    GradientPlan,
    measure_reach,
    set_forget_bias,
    study_cell,
    study_forget_bias,
    study_gradients,
    study_recurrent_gain,
)

VOCABULARY_SIZE = 7


def build(cell: str, window: int = 8) -> RecurrentLM:
    torch.manual_seed(5)
    sizes = {"num_layers": 1, "hidden_size": 8, "embedding_size": 6, "tied": False, "dropout": 0.0, "window": window}
    return RecurrentLM(ModelConfig(VOCABULARY_SIZE, cell, **sizes))  # type: ignore[arg-type]


def probe(num_steps: int, num_lanes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids_TB = torch.randint(VOCABULARY_SIZE, (num_steps, num_lanes), generator=generator)
    return ids_TB, torch.randint(VOCABULARY_SIZE, (num_lanes,), generator=generator)


def elman_norms(model: RecurrentLM, ids_T: np.ndarray[tuple[int], np.dtype[np.int64]], target: int) -> list[float]:
    """|dL/dh(t-k)| of one lane in numpy: softmax minus one-hot through the output, then U^T diag(1 - h^2) per step."""
    weights = {name: tensor.detach().double().numpy() for name, tensor in model.named_parameters()}
    inward, recurrent = weights["stack.layers.weight_ih_l0"], weights["stack.layers.weight_hh_l0"]
    bias = weights["stack.layers.bias_ih_l0"] + weights["stack.layers.bias_hh_l0"]
    hidden, trace = np.zeros(len(recurrent)), []
    for token in ids_T:
        hidden = np.tanh(inward @ weights["embedding.weight"][token] + recurrent @ hidden + bias)
        trace.append(hidden)
    logits = weights["own_output"] @ hidden + weights["output_bias"]
    slope = np.exp(logits - logits.max())
    slope = slope / slope.sum() - np.eye(len(logits))[target]
    gradient = weights["own_output"].T @ slope
    norms = [float(np.linalg.norm(gradient))]
    for hidden in reversed(trace[1:]):
        gradient = recurrent.T @ (gradient * (1.0 - hidden**2))
        norms.append(float(np.linalg.norm(gradient)))
    return norms


def test_an_elman_net_has_the_norms_of_its_equations() -> None:
    """The measured curve is the one that numpy gives by the chain rule, averaged over lanes as the logs are."""
    model, (ids_TB, targets_B) = build("elman"), probe(9)
    lanes = [elman_norms(model, ids_TB[:, lane].numpy(), int(targets_B[lane])) for lane in range(3)]
    mean_K = np.exp(np.log(np.array(lanes)).mean(axis=0))
    np.testing.assert_allclose(measure_reach(model, ids_TB, targets_B).hidden_K, mean_K / mean_K[0], rtol=1e-4)


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_every_cell_has_a_curve(cell: str) -> None:
    """One finite value per distance for hidden vectors and inputs, both 1 at k = 0."""
    reach = measure_reach(build(cell), *probe(12))
    for norms_K in (reach.hidden_K, reach.input_K):
        assert len(norms_K) == 12
        assert norms_K[0] == 1.0
        assert np.isfinite(norms_K).all()


def test_a_fixed_window_ends_where_it_ends() -> None:
    """A window's inputs have gradients up to its length and no further. Its output is never read again."""
    reach = measure_reach(build("tdnn", window=4), *probe(10))
    assert min(reach.input_K[:4]) > 0.0
    assert max(reach.input_K[4:]) == 0.0
    assert max(reach.hidden_K[1:]) == 0.0


@pytest.mark.parametrize("cell", sorted(set(CELLS) - {"tdnn"}))
def test_a_recurrent_cell_reaches_beyond_a_window(cell: str) -> None:
    """Something of the loss arrives twenty steps back; at the inputs where, as in the mLSTM, outputs are never read."""
    reach = measure_reach(build(cell), *probe(21))
    assert (reach.input_K if cell == "mlstm" else reach.hidden_K)[20] > 0.0


def test_the_forget_bias_slows_the_vanishing(study_settings: Settings) -> None:
    """The larger the bias, the more of an LSTM's gradient is left after twenty steps."""
    reaches = study_forget_bias(GradientPlan(study_settings, ("lstm",), 20))
    assert reaches[0.0].hidden_K[20] < 0.1 * reaches[1.0].hidden_K[20] < 0.1 * reaches[2.0].hidden_K[20]


def test_setting_the_forget_bias_sets_nothing_else() -> None:
    """Only the forget gate's rows change, and their sum over both vectors is the bias."""
    model, untouched = build("lstm"), build("lstm")
    set_forget_bias(model, 2.0)
    vectors = dict(model.stack.named_parameters())
    total = vectors["layers.bias_ih_l0"] + vectors["layers.bias_hh_l0"]
    assert total[8:16].tolist() == [2.0] * 8
    before = dict(untouched.stack.named_parameters())
    for name, vector in vectors.items():
        changed = (vector != before[name]).nonzero()[:, 0].tolist()
        assert all("bias" in name and 8 <= row < 16 for row in changed)


def test_a_large_recurrent_matrix_explodes(study_settings: Settings) -> None:
    """Half an orthogonal matrix loses the gradient, three times the matrix makes it grow."""
    wide = study_settings.model.model_copy(update={"hidden_size": 64, "embedding_size": 64})
    settings = study_settings.model_copy(update={"model": wide})
    reaches = study_recurrent_gain(GradientPlan(settings, ("elman",), 20), (0.5, 3.0))
    assert reaches[0.5].hidden_K[20] < 1e-5
    assert reaches[3.0].hidden_K[20] > 1.0


def test_both_arms_start_alike_and_only_one_is_clipped(study_settings: Settings) -> None:
    """The first gradient is the same bit for bit; a tight clip shrinks what a step changes, or how later ones go."""
    optimizer = study_settings.optimizer.model_copy(update={"clip_norm": 0.05})
    plan = GradientPlan(study_settings.model_copy(update={"optimizer": optimizer}), ("gru",), 10, num_lanes=4)
    result = study_cell(plan, "gru")
    assert len(result.with_clip.gradient_norms) == len(result.without_clip.update_norms) == 8
    assert result.with_clip.gradient_norms[0] == result.without_clip.gradient_norms[0] > 0.05
    assert result.with_clip.update_norms[1:] != result.without_clip.update_norms[1:]
    assert result.fresh != result.clipped != result.unclipped


def test_results_come_as_they_are_found(study_settings: Settings) -> None:
    """Each cell is reported once, in order, and returned."""
    seen: list[str] = []
    plan = GradientPlan(study_settings, ("elman", "mingru"), 5, num_lanes=2)
    results = study_gradients(plan, lambda result: seen.append(result.cell))
    assert seen == ["elman", "mingru"] == [result.cell for result in results]


def test_a_text_too_short_for_the_distance_is_refused(study_settings: Settings) -> None:
    """A text that is too short is an error with its length."""
    plan = replace(GradientPlan(study_settings, ("elman",)), distance=100_000)
    with pytest.raises(CorpusError, match="too few for a distance of 100000"):
        study_cell(plan, "elman")
