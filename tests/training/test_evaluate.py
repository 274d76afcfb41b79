"""A model reads a whole text, and writes a sample."""

import math

import pytest
import torch
from torch.nn import functional

from carousel.bundle.tokenizer import TokenizerKind
from carousel_training.batches import EvaluationBatches, LanePlan
from carousel_training.evaluate import EvaluationText, Quality, SamplePlan, evaluate, measure_tokens, sample
from carousel_training.model import ModelConfig, RecurrentLM
from carousel_training.precision import Compute
from carousel_training.settings import VocabularySettings
from carousel_training.vocabulary import learn_vocabulary

COMPUTE = Compute(torch.device("cpu"), uses_bfloat16=False)


def build() -> RecurrentLM:
    torch.manual_seed(0)
    return RecurrentLM(ModelConfig(12, "lstm", 1, 8, 8, tied=True, dropout=0.5))


def test_one_lane_is_one_long_forward_without_dropout() -> None:
    """Segments carry the state, the last short one counts, dropout is off, and the mode comes back."""
    model = build().train()
    ids = torch.randint(12, (23,))
    text = EvaluationText(EvaluationBatches(ids, 3, LanePlan(1, 5)), tokens_per_byte=None)
    quality = evaluate(model, text, COMPUTE)
    assert model.training
    model.eval()
    logits_BTV, _ = model(torch.cat([torch.tensor([3]), ids[:-1]])[None], model.initial_state(1))
    assert quality.nats_per_token == pytest.approx(functional.cross_entropy(logits_BTV[0], ids).item(), rel=1e-6)


def test_evaluation_and_samples_leave_torchs_generator_alone() -> None:
    """An evaluation does not change a run."""
    model = build().train()
    before = torch.get_rng_state()
    text = EvaluationText(EvaluationBatches(torch.randint(12, (9,)), 3, LanePlan(2, 4)), None)
    after_drawing = torch.get_rng_state()
    evaluate(model, text, COMPUTE)
    sample(model, [0], SamplePlan(5, 1.0, seed=3))
    assert not torch.equal(before, after_drawing)
    assert torch.equal(torch.get_rng_state(), after_drawing)


def test_samples_follow_from_their_seed() -> None:
    """Equal seeds write the same, another seed writes something else, and temperature 0 takes the likeliest token."""
    model = build()
    written = [sample(model, [0], SamplePlan(20, 1.0, seed)) for seed in (1, 1, 2)]
    assert written[0] == written[1] != written[2]
    greedy = sample(model, [0], SamplePlan(1, 0.0, seed=1))
    logits_BTV, _ = model.eval()(torch.tensor([[0]]), model.initial_state(1))
    assert greedy == [int(logits_BTV.argmax())]


def test_units_are_converted() -> None:
    """Nats, bits, perplexity and bits per byte agree."""
    quality = Quality.of(math.log(8.0), tokens_per_byte=0.25)
    assert quality.bits_per_token == pytest.approx(3.0)
    assert quality.perplexity == pytest.approx(8.0)
    assert quality.bits_per_byte == pytest.approx(0.75)
    assert "perplexity 8.00, 0.7500 bits/byte" in quality.describe().replace("bits/token, ", "")


def test_bits_per_byte_only_where_tokens_give_the_text_back() -> None:
    """Word and character vocabularies lose text, so they have no figure per byte."""
    for kind, text, expected in (
        (TokenizerKind.BYTE, "né", 1.0),
        (TokenizerKind.CHARACTER, "né", 2 / 3),
        (TokenizerKind.CHARACTER, "nö", None),
        (TokenizerKind.WORD, "né", None),
    ):
        tokenizer = learn_vocabulary("né", VocabularySettings(kind=kind))
        assert measure_tokens(tokenizer, text, tokenizer.encode(text)) == expected
