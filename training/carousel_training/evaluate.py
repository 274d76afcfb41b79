"""Measures how well a model predicts a whole text, and samples text from it.

It changes neither the model nor torch's generator, so the number of evaluations does not change a run.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn import functional

from carousel.bundle.tokenizer import Tokenizer
from carousel_training.batches import EvaluationBatches
from carousel_training.model import RecurrentLM
from carousel_training.precision import Compute


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over a text. `bits_per_byte` is None if the tokens do not reproduce the text, where it would flatter."""

    nats_per_token: float
    bits_per_token: float
    perplexity: float
    bits_per_byte: float | None

    @classmethod
    def of(cls, nats_per_token: float, tokens_per_byte: float | None) -> "Quality":
        bits = nats_per_token / math.log(2.0)
        per_byte = None if tokens_per_byte is None else bits * tokens_per_byte
        perplexity = math.exp(nats_per_token) if nats_per_token < 700.0 else math.inf
        return cls(nats_per_token, bits, perplexity, per_byte)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def describe(self) -> str:
        text = f"{self.nats_per_token:.4f} nats, {self.bits_per_token:.4f} bits/token, perplexity {self.perplexity:.2f}"
        return text if self.bits_per_byte is None else f"{text}, {self.bits_per_byte:.4f} bits/byte"


@dataclass(frozen=True, slots=True)
class EvaluationText:
    """A text as batches. `tokens_per_byte` is None if its tokens lose a part of it."""

    batches: EvaluationBatches
    tokens_per_byte: float | None


def measure_tokens(tokenizer: Tokenizer, text: str, ids: Sequence[int]) -> float | None:
    """Returns tokens per byte, or None if decoding does not reproduce the text, as with words or unknown characters."""
    return len(ids) / len(text.encode()) if tokenizer.decode(ids) == text else None


@torch.no_grad()
def evaluate(model: RecurrentLM, text: EvaluationText, compute: Compute) -> Quality:
    """Predicts every token of the text once, starting as a session does, in the precision of the run."""
    was_training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=model.device)
    state = model.initial_state(text.batches.num_lanes)
    for index in range(len(text.batches)):
        inputs_BT, targets_BT, _ = text.batches[index]
        with compute.autocast():
            logits_BTV, state = model(inputs_BT, state)
        total += functional.cross_entropy(
            logits_BTV.transpose(0, 1).flatten(0, 1).float(), targets_BT.t().flatten(), reduction="sum"
        )
    model.train(was_training)
    return Quality.of(total.item() / text.batches.num_targets, text.tokens_per_byte)


@dataclass(frozen=True, slots=True)
class SamplePlan:
    """How to sample. A `temperature` of 0 chooses the likeliest token, the lower id among equals."""

    num_tokens: int
    temperature: float
    seed: int


@torch.no_grad()
def sample(model: RecurrentLM, prompt: list[int], plan: SamplePlan) -> list[int]:
    """Samples the model's continuation of the prompt (at least one token), in float32."""
    was_training = model.training
    model.eval()
    generator = torch.Generator().manual_seed(plan.seed)
    ids_BT, state = torch.tensor([prompt], device=model.device), model.initial_state(1)
    written: list[int] = []
    for _ in range(plan.num_tokens):
        logits_BTV, state = model(ids_BT, state)
        written.append(_pick(logits_BTV[0, -1].float().cpu(), plan.temperature, generator))
        ids_BT = torch.tensor([written[-1:]], device=model.device)
    model.train(was_training)
    return written


def _pick(logits_V: torch.Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0.0:
        return int((logits_V == logits_V.max()).nonzero()[0])
    probabilities_V = functional.softmax(logits_V / temperature, dim=0)
    return int(torch.multinomial(probabilities_V, 1, generator=generator))
