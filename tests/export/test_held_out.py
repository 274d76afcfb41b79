"""The cost of rounding: a network and a bundle read the same tokens."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from carousel.bundle.manifest import Bundle
from carousel.engine.model import OnnxModel
from carousel_export import held_out
from carousel_export.bundle_writer import write_files
from carousel_export.errors import NoHeldOutText
from carousel_export.held_out import HeldOutText, compare_perplexity, find_text
from carousel_training.checkpoint import Checkpoint, TrainedModel, load_best
from carousel_training.corpus import read_corpus
from carousel_training.settings import Settings

TEXT = "the lazy fox jumps over the quick dog\n" * 30


@pytest.fixture
def served(trained: TrainedModel, tmp_path: Path) -> OnnxModel:
    write_files(trained, tmp_path, "model")
    return OnnxModel(Bundle.load(tmp_path))


def with_corpus(checkpoint: Checkpoint, text: Path, digest: str) -> Checkpoint:
    """Makes a checkpoint whose run split that file when it had that digest."""
    settings = Settings.parse({"corpus": {"text": [str(text)], "valid_fraction": 0.25}})
    facts = {**checkpoint.facts, "settings": settings.as_json(), "corpus": {"sha256": digest}}
    return Checkpoint(checkpoint.path, facts, checkpoint.tensors, checkpoint.tokenizer)


@pytest.mark.parametrize("num_tokens", [3, 16, 2000])
def test_a_faithful_bundle_has_the_networks_perplexity(
    trained: TrainedModel, served: OnnxModel, num_tokens: int
) -> None:
    """Both have the same number, for texts of fewer tokens than lanes and for lanes of unequal length."""
    ids_N = np.random.default_rng(0).integers(0, trained.tokenizer.size, num_tokens)
    found = compare_perplexity(trained.model, served, HeldOutText("noise", ids_N, trained.tokenizer.start_id))
    assert found.ratio == pytest.approx(1.0, abs=1e-5)


def test_every_token_counts_once(trained: TrainedModel, served: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a single lane, the result is the mean over a plain reading from the start token on."""
    monkeypatch.setattr(held_out, "NUM_LANES", 1)
    ids_N = np.random.default_rng(1).integers(0, trained.tokenizer.size, 150)
    start = trained.tokenizer.start_id
    with torch.no_grad():
        inputs_1T = torch.tensor([[start, *ids_N[:-1]]])
        logits_1TV, _ = trained.model(inputs_1T, trained.model.initial_state(1))
    expected = functional.cross_entropy(logits_1TV[0], torch.from_numpy(ids_N)).exp().item()
    found = compare_perplexity(trained.model, served, HeldOutText("noise", ids_N, start))
    assert found.bundle == pytest.approx(expected, rel=1e-5)
    assert found.float32 == pytest.approx(expected, rel=1e-5)


def test_the_runs_own_validation_part_is_found(checkpoint: Path, tmp_path: Path) -> None:
    """It is the part that training did not see, by the same fractions; a named file comes first."""
    (tmp_path / "all.txt").write_text(TEXT)
    (tmp_path / "other.txt").write_text("fox dog fox")
    best = load_best(checkpoint)
    corpus = read_corpus(
        Settings.parse({"corpus": {"text": [str(tmp_path / "all.txt")], "valid_fraction": 0.25}}).corpus
    )
    told = with_corpus(best, tmp_path / "all.txt", corpus.digest)
    found = find_text(told)
    assert best.tokenizer.decode(found.ids_N.tolist()) == corpus.valid
    assert found.source == "the validation part of all.txt"
    assert best.tokenizer.decode(find_text(told, tmp_path / "other.txt").ids_N.tolist()) == "fox dog fox"


def test_a_text_that_changed_or_went_away_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """The sentence says that text which may have been trained on is no test."""
    (tmp_path / "all.txt").write_text(TEXT)
    best = load_best(checkpoint)
    with pytest.raises(NoHeldOutText, match=r"all\.txt is not the text that .* was trained on; name a text"):
        find_text(with_corpus(best, tmp_path / "all.txt", "another digest"))
    with pytest.raises(NoHeldOutText, match="cannot read .*gone.txt"):
        find_text(with_corpus(best, tmp_path / "gone.txt", ""))
    with pytest.raises(NoHeldOutText, match="does not say what it was validated on"):
        find_text(best)


def test_long_texts_are_read_from_the_beginning(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export takes time, but not as much as a whole corpus would need."""
    monkeypatch.setattr(held_out, "MAX_TOKENS", 40)
    (tmp_path / "all.txt").write_text(TEXT)
    best = load_best(checkpoint)
    assert best.tokenizer.decode(find_text(best, tmp_path / "all.txt").ids_N.tolist()) == TEXT[:40]
