"""Finds held-out text and compares the perplexities of a network and its bundle on it: the cost of rounding.

The text is a file, or the run's own validation part if it has not changed. Legend: B lanes, T steps, H hidden width, N
tokens.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from carousel.engine.model import StepModel
from carousel_export.errors import NoHeldOutText
from carousel_training.batches import EvaluationBatches, LanePlan
from carousel_training.checkpoint import Checkpoint
from carousel_training.corpus import read_corpus
from carousel_training.errors import TrainingError
from carousel_training.evaluate import EvaluationText, evaluate
from carousel_training.model import RecurrentLM
from carousel_training.precision import Compute
from carousel_training.settings import CorpusSettings, Settings
from carousel_training.vocabulary import encode_text

MAX_TOKENS = 32_768  # from the beginning: half a minute for a large vocabulary
NUM_LANES, SEGMENT = 16, 64


@dataclass(frozen=True, slots=True)
class HeldOutText:
    """Tokens that a model was not trained on. `source` names their origin for users."""

    source: str
    ids_N: npt.NDArray[np.int64]
    start_id: int

    def batches(self) -> EvaluationBatches:
        return EvaluationBatches(torch.from_numpy(self.ids_N), self.start_id, LanePlan(NUM_LANES, SEGMENT))


@dataclass(frozen=True, slots=True)
class Perplexities:
    """The perplexities of the network in float32 and of its bundle, on the same tokens."""

    float32: float
    bundle: float

    @property
    def ratio(self) -> float:
        return self.bundle / self.float32


def find_text(checkpoint: Checkpoint, file: Path | None = None) -> HeldOutText:
    """Reads the file, or without one the validation text of the checkpoint's run. Raises NoHeldOutText."""
    try:
        source, text = _validation_text(checkpoint) if file is None else _whole(file)
        ids_N = encode_text(checkpoint.tokenizer, text)[:MAX_TOKENS]
    except TrainingError as error:
        raise NoHeldOutText(f"there is no held-out text to measure on: {error}") from error
    return HeldOutText(source, ids_N, checkpoint.tokenizer.start_id)


def compare_perplexity(trained: RecurrentLM, served: StepModel, text: HeldOutText) -> Perplexities:
    """Measures both on the same tokens."""
    compute = Compute(torch.device("cpu"), uses_bfloat16=False)
    ours = evaluate(trained, EvaluationText(text.batches(), None), compute)
    return Perplexities(ours.perplexity, served_perplexity(served, text))


def served_perplexity(served: StepModel, text: HeldOutText) -> float:
    """Measures a bundle's perplexity: it predicts every token once, after all tokens before it in its lane."""
    batches, nats = text.batches(), 0.0
    state = served.layout.initial(batches.num_lanes)
    for index in range(len(batches)):
        inputs_BT, targets_BT, _ = batches[index]
        lengths_B = np.full(len(inputs_BT), inputs_BT.shape[1], np.int32)
        hidden_BTH, state = served.core(inputs_BT.numpy(), lengths_B, state)
        is_target_BT = targets_BT.numpy() != EvaluationBatches.IGNORED
        scores = served.score(hidden_BTH[is_target_BT], targets_BT.numpy()[is_target_BT])
        nats -= float(np.sum(scores.log_probs_N, dtype=np.float64))
    return math.exp(min(nats / len(text.ids_N), 700.0))


def _validation_text(checkpoint: Checkpoint) -> tuple[str, str]:
    """Returns source and text. Raises NoHeldOutText if the checkpoint names no text, or if the text has changed."""
    try:
        settings, digest = Settings.parse(checkpoint.facts["settings"]), checkpoint.facts["corpus"]["sha256"]
    except (KeyError, TypeError) as error:
        raise NoHeldOutText(f"{checkpoint.path} does not say what it was validated on; name a text") from error
    corpus = read_corpus(settings.corpus)
    if corpus.digest != digest:
        raise NoHeldOutText(f"{corpus.source} is not the text that {checkpoint.path} was trained on; name a text")
    return f"the validation part of {corpus.source}", corpus.valid


def _whole(file: Path) -> tuple[str, str]:
    return file.name, read_corpus(CorpusSettings(train=(file,), valid=(file,))).valid
