"""How far back a loss reaches: the norm of dL/dh(t-k) against k, where L is the loss at step t alone.

Norms are per lane, then averaged (geometric mean) over lanes, and relative to the norm at k = 0, so that cells of
different scale share a plot. This module prints nothing. Legend: T steps, B lanes, K distances 0..T-1, X input width.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn import functional

from carousel_training.cells.registry import CELLS
from carousel_training.errors import CorpusError
from carousel_training.materials import Materials, make_materials
from carousel_training.model import RecurrentLM
from carousel_training.settings import Settings
from carousel_training.trainer import Trainer
from carousel_training.vocabulary import encode_text

FORGET_BIASES = (0.0, 1.0, 2.0)
ELMAN_GAINS = (0.5, 1.0, 3.0)  # inputs of unit scale saturate tanh, so exploding needs a gain above 1
NO_CLIP = 1e12
FLOOR = 1e-38  # where float32 ends; smaller norms are as good as zero


@dataclass(frozen=True, slots=True)
class Reach:
    """Holds relative norms for k = 0, 1, ...: of the gradient by the hidden vector, and by the layer's input."""

    hidden_K: tuple[float, ...]
    input_K: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ShortTraining:
    """One arm: norms of the gradient before clipping and of the change of all weights, one each per step."""

    gradient_norms: tuple[float, ...]
    update_norms: tuple[float, ...]
    final_nats: float


@dataclass(frozen=True, slots=True)
class GradientResult:
    """Holds one cell's results, at initialisation and after a short training with and without clipping."""

    cell: str
    fresh: Reach
    clipped: Reach
    unclipped: Reach
    with_clip: ShortTraining
    without_clip: ShortTraining

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class GradientPlan:
    """`settings` holds everything but the cell and its rate; `distance` is the largest k."""

    settings: Settings
    cells: tuple[str, ...]
    distance: int = 100
    num_lanes: int = 16


def measure_reach(model: RecurrentLM, ids_TB: torch.Tensor, targets_B: torch.Tensor) -> Reach:
    """Steps through `ids_TB` with the written equations. The loss is that of `targets_B` after the last step.

    h is the top layer's output, which in every recurrent cell is also the input of the next step. A cell that never
    reads its own output, such as the time-delay network, has zeros beyond k = 0.
    """
    outputs, inputs = _unroll(model, ids_TB)
    loss = functional.cross_entropy(model.logits(outputs[-1]), targets_B, reduction="sum")
    found = torch.autograd.grad(loss, [*outputs, *inputs], allow_unused=True)
    num_steps = len(outputs)
    return Reach(_relative(found[:num_steps]), _relative(found[num_steps:]))


def study_cell(plan: GradientPlan, cell: str) -> GradientResult:
    """Makes three measurements on the same text."""
    settings = _for_cell(plan.settings, cell)
    materials = make_materials(settings)
    ids_TB, targets_B = _probe(materials, plan)
    fresh = measure_reach(materials.trainer.model, ids_TB, targets_B)
    with_clip = _train(materials)
    clipped = measure_reach(materials.trainer.model, ids_TB, targets_B)
    optimizer = settings.optimizer.model_copy(update={"clip_norm": NO_CLIP})
    materials = make_materials(settings.model_copy(update={"optimizer": optimizer}), materials.tokenizer)
    without_clip = _train(materials)
    unclipped = measure_reach(materials.trainer.model, ids_TB, targets_B)
    return GradientResult(cell, fresh, clipped, unclipped, with_clip, without_clip)


def study_gradients(plan: GradientPlan, report: Callable[[GradientResult], None]) -> list[GradientResult]:
    """Studies every cell and calls `report` with each result."""
    results = []
    for cell in plan.cells:
        results.append(study_cell(plan, cell))
        report(results[-1])
    return results


def study_forget_bias(plan: GradientPlan, biases: Sequence[float] = FORGET_BIASES) -> dict[float, Reach]:
    """Measures fresh LSTMs, one for each start value of the forget gates' bias."""
    materials = make_materials(_for_cell(plan.settings, "lstm"))
    ids_TB, targets_B = _probe(materials, plan)
    reaches = {}
    for bias in biases:
        set_forget_bias(materials.trainer.model, bias)
        reaches[bias] = measure_reach(materials.trainer.model, ids_TB, targets_B)
    return reaches


def study_recurrent_gain(plan: GradientPlan, gains: Sequence[float] = ELMAN_GAINS) -> dict[float, Reach]:
    """Measures fresh Elman nets, one for each factor of the recurrent matrix, which starts orthogonal."""
    materials = make_materials(_for_cell(plan.settings, "elman"))
    model, reaches = materials.trainer.model, {}
    ids_TB, targets_B = _probe(materials, plan)
    matrices = [weight for name, weight in model.stack.named_parameters() if "weight_hh" in name]
    originals = [weight.detach().clone() for weight in matrices]
    for gain in gains:
        with torch.no_grad():
            for weight, original in zip(matrices, originals, strict=True):
                weight.copy_(gain * original)
        reaches[gain] = measure_reach(model, ids_TB, targets_B)
    return reaches


def set_forget_bias(model: RecurrentLM, bias: float) -> None:
    """Sets it in an LSTM on torch's kernels, whose biases are those of the four gates in the order i, f, g, o."""
    size = model.config.hidden_size
    with torch.no_grad():
        for name, vector in model.stack.named_parameters():
            if "bias_ih" in name:
                vector[size : 2 * size] = bias
            elif "bias_hh" in name:
                vector[size : 2 * size] = 0.0


def _unroll(model: RecurrentLM, ids_TB: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Returns outputs [B,H] and embedded inputs [B,X] of every step, all part of one graph."""
    model.eval()
    state = model.initial_state(ids_TB.shape[1])
    ids_SB, state = model.stack.remember(ids_TB, state)
    x_SBX = model.embed(ids_SB)
    inputs = list(x_SBX.unbind(0))
    num_context, outputs = model.stack.num_context, []
    for step in range(len(ids_TB)):
        result = model.stack.step(torch.stack(inputs[step : step + 1 + num_context]), state)
        state = result.state
        outputs.append(result.output_BH)
    return outputs, inputs[num_context:]


def _relative(gradients: Sequence[torch.Tensor | None]) -> tuple[float, ...]:
    """Returns norms from the last step back. Uses the geometric mean over lanes, so that no single lane decides."""
    logs = [
        -torch.inf if gradient is None else float(gradient.double().norm(dim=1).clamp_min(FLOOR).log().mean())
        for gradient in reversed(gradients)
    ]
    start = torch.tensor(logs[0], dtype=torch.float64)
    return tuple(torch.exp(torch.tensor(logs, dtype=torch.float64) - start).tolist())


def _for_cell(settings: Settings, cell: str) -> Settings:
    optimizer = settings.optimizer.model_copy(update={"learning_rate": CELLS[cell].learning_rate})
    model = settings.model.model_copy(update={"cell": cell})
    return settings.model_copy(update={"model": model, "optimizer": optimizer})


def _probe(materials: Materials, plan: GradientPlan) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ids_TB of T = distance + 1 steps from evenly spread places of the validation text, and the next tokens.

    Raises CorpusError for a text that is too short.
    """
    ids_N = torch.from_numpy(encode_text(materials.tokenizer, materials.corpus.valid)).to(
        materials.trainer.model.device
    )
    num_steps = plan.distance + 1
    if len(ids_N) < num_steps + plan.num_lanes:
        raise CorpusError(f"the validation text has {len(ids_N)} tokens, too few for a distance of {plan.distance}")
    starts_B = torch.linspace(0, len(ids_N) - num_steps - 1, plan.num_lanes, device=ids_N.device).long()
    window_TB = ids_N[torch.arange(num_steps + 1, device=ids_N.device)[:, None] + starts_B[None, :]]
    return window_TB[:-1], window_TB[-1]


def _train(materials: Materials) -> ShortTraining:
    """Runs all steps of the settings' budget."""
    trainer, num_steps = materials.trainer, materials.settings.budget.max_steps or 0
    nats, gradient_norms, update_norms = 0.0, [], []
    for step in range(num_steps):
        before = _flat(trainer)
        trainer.advance(step / num_steps)
        nats, norm = trainer.pop_means()
        gradient_norms.append(norm)
        update_norms.append(float((_flat(trainer) - before).norm()))
    return ShortTraining(tuple(gradient_norms), tuple(update_norms), nats)


def _flat(trainer: Trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])
