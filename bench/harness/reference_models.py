"""The two models that figures are about, with random weights: speed does not depend on what they learned.

small: 1 x 256 LSTM, vocabulary 2,048. medium: 2 x 650 LSTM, vocabulary 33,278 (the sizes of WikiText-2 papers).
"""

from pathlib import Path

import tokenizers
import torch
from tokenizers import models, normalizers, pre_tokenizers

from carousel.bundle.tokenizer import END_OF_LINE, UNKNOWN, Tokenizer, TokenizerKind
from carousel_export.bundle_writer import write_files
from carousel_export.precision import Precision
from carousel_training.checkpoint import TrainedModel
from carousel_training.model import ModelConfig, RecurrentLM

SIZES = {"small": (1, 256, 2_048), "medium": (2, 650, 33_278)}


def write_reference_bundle(size: str, directory: Path, precision: str = Precision.FLOAT32) -> Path:
    """A bundle of that size under `directory`, named SIZE-PRECISION."""
    return _write(directory / f"{size}-{precision}", "lstm", SIZES[size], Precision(precision))


def write_cell_bundle(cell: str, directory: Path) -> Path:
    """A bundle of any cell at the small size; two layers where one would be a plain LSTM."""
    num_layers, width, vocabulary_size = SIZES["small"]
    return _write(directory / cell, cell, (2 if cell == "lstm-depth-gated" else num_layers, width, vocabulary_size))


def _write(target: Path, cell: str, size: tuple[int, int, int], precision: Precision = Precision.FLOAT32) -> Path:
    num_layers, width, vocabulary_size = size
    torch.manual_seed(0)
    config = ModelConfig(
        vocabulary_size=vocabulary_size,
        cell=cell,
        num_layers=num_layers,
        hidden_size=width,
        embedding_size=width,
        tied=False,
        dropout=0.0,
    )
    target.mkdir()
    trained = TrainedModel(RecurrentLM(config).eval(), _numbered_words(vocabulary_size), {})
    write_files(trained, target, target.name, precision)
    return target


def _numbered_words(vocabulary_size: int) -> Tokenizer:
    words = [UNKNOWN, END_OF_LINE, *(f"w{number}" for number in range(vocabulary_size - 2))]
    codec = tokenizers.Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, UNKNOWN))
    codec.normalizer = normalizers.Replace("\n", f" {END_OF_LINE} ")
    codec.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(TokenizerKind.WORD, codec)
