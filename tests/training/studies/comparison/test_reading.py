"""A held-out part is read in stretches, each started as a session and counted after a warm-up."""

import pytest
import torch
from torch.nn import functional

from carousel_training.batches import WARM_UP
from carousel_training.errors import CorpusError
from carousel_training.model import ModelConfig, RecurrentLM
from carousel_training.precision import Compute
from carousel_training.settings import ModelSettings
from carousel_training.studies.comparison.jobs import ReadingPlan
from carousel_training.studies.comparison.reading import Stretches

COMPUTE = Compute(torch.device("cpu"), uses_bfloat16=False)
START = 3


def make_model() -> RecurrentLM:
    torch.manual_seed(1)
    settings = ModelSettings.model_validate({"hidden_size": 8, "embedding_size": 8, "dropout": 0.5})
    return RecurrentLM(ModelConfig.from_settings(settings, 11))


def make_ids(num_tokens: int) -> torch.Tensor:
    return torch.randint(11, (num_tokens,), generator=torch.Generator().manual_seed(2))


def test_a_lane_is_the_loss_of_its_stretch_alone() -> None:
    """The start token, the warm-up, then every token of the stretch once; the same sums by blocks of 30."""
    model, ids_N = make_model().eval(), make_ids(WARM_UP + 2 * 200)
    part = Stretches(ids_N, START, ReadingPlan(2, 0, 0, block=30), num_tokens=2 * 75)
    found = part.read(model, COMPUTE)
    for lane, start in enumerate((0, 200)):
        read_N = ids_N[start : start + WARM_UP + 75]
        inputs_1T = torch.cat([torch.tensor([START]), read_N[:-1]])[None]
        with torch.no_grad():
            logits_TV = model(inputs_1T, model.initial_state(1))[0][0]
        nats_T = functional.cross_entropy(logits_TV, read_N, reduction="none")[WARM_UP:]
        assert found.lanes_B[lane] == pytest.approx(float(nats_T.mean()), rel=1e-5)
        sums = [float(block.sum()) for block in torch.split(nats_T, 30)]
        assert found.blocks_N[lane * 3 : lane * 3 + 3] == pytest.approx(sums, rel=1e-5)
    assert found.nats == pytest.approx(sum(found.lanes_B) / 2, rel=1e-5)
    assert part.num_tokens == 150


def test_reading_changes_nothing() -> None:
    """A model in training mode stays in it, and dropout does not change the result."""
    model, part = make_model(), Stretches(make_ids(400), START, ReadingPlan(2, 0, 0, 30), 60)
    assert part.read(model, COMPUTE) == part.read(model, COMPUTE)
    assert model.training


def test_a_short_part_is_read_as_far_as_it_goes() -> None:
    """Stretches do not overlap, and a part that is too short for its lanes is refused."""
    plan = ReadingPlan(4, 0, 0, block=30)
    assert Stretches(make_ids(WARM_UP + 43), START, plan, 1000).num_tokens == 40
    with pytest.raises(CorpusError, match="too short for 4 lanes"):
        Stretches(make_ids(WARM_UP + 3), START, plan, 1000)
