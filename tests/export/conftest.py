"""What the export tests share: one thread, and a checkpoint made in milliseconds."""

from pathlib import Path

import pytest
from tests.export.networks import build_model
from tests.torch_fixtures import one_thread as one_thread

from carousel.bundle.tokenizer import Tokenizer, TokenizerKind
from carousel_training.checkpoint import BEST, TrainedModel, save_checkpoint, save_tokenizer
from carousel_training.settings import VocabularySettings
from carousel_training.vocabulary import learn_vocabulary

TEXT = "the quick brown fox jumps over the lazy dog\n"


@pytest.fixture
def tokenizer() -> Tokenizer:
    return learn_vocabulary(TEXT, VocabularySettings(kind=TokenizerKind.CHARACTER))


@pytest.fixture
def trained(tokenizer: Tokenizer) -> TrainedModel:
    """A two-layer LSTM over the characters of TEXT."""
    return TrainedModel(build_model(num_layers=2, vocabulary_size=tokenizer.size), tokenizer, {"steps": 3})


@pytest.fixture
def checkpoint(trained: TrainedModel, tmp_path: Path) -> Path:
    """The same as a run's directory."""
    directory = tmp_path / "run"
    directory.mkdir()
    facts = {
        "step": 3,
        "tokenizer": save_tokenizer(directory, trained.tokenizer),
        "model": trained.model.config.as_json(),
        "training": {"steps": 3, "corpus": "TEXT"},
    }
    save_checkpoint(directory, BEST, facts, {f"model.{k}": t for k, t in trained.model.state_dict().items()})
    return directory
