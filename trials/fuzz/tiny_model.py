"""The smallest complete bundle: an LSTM of 16 with random weights, a token for each byte."""

from pathlib import Path

import torch

from carousel.bundle.tokenizer import TokenizerKind
from carousel_export.bundle_writer import write_files
from carousel_training.checkpoint import TrainedModel
from carousel_training.model import ModelConfig, RecurrentLM
from carousel_training.settings import VocabularySettings
from carousel_training.vocabulary import learn_vocabulary

VOCABULARY_SIZE = 256


def write_tiny_bundle(directory: Path) -> Path:
    """Writes the bundle to `directory`, which must not exist. Each call writes equal bytes."""
    torch.manual_seed(0)
    config = ModelConfig(
        vocabulary_size=VOCABULARY_SIZE,
        cell="lstm",
        num_layers=1,
        hidden_size=16,
        embedding_size=8,
        tied=False,
        dropout=0.0,
    )
    tokenizer = learn_vocabulary("", VocabularySettings(kind=TokenizerKind.BYTE))
    directory.mkdir()
    write_files(TrainedModel(RecurrentLM(config).eval(), tokenizer, {}), directory, "tiny")
    return directory
