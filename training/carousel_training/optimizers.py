"""The optimisers of a run as one: they step together, their rates move together, their state is saved together.

`adamw` and `sgd` are one optimiser for everything. `muon` gives the recurrent stack's matrices that multiply hidden
vectors an optimiser of their own, whose step is the orthogonal matrix nearest to the momentum (Jordan et al. 2024), and
everything else to AdamW.
"""

from collections.abc import Mapping

import torch
from torch.optim import SGD, AdamW, Muon, Optimizer

from carousel_training.model import RecurrentLM
from carousel_training.settings import OptimizerSettings

PREFIX = "optimizer."
Parameters = list[torch.nn.Parameter]


class Optimizers:
    """One or two of torch's optimisers. `peaks` are their learning rates at a factor of 1."""

    def __init__(self, model: RecurrentLM, settings: OptimizerSettings) -> None:
        peak = settings.learning_rate or model.stack.learning_rate
        orthogonal = hidden_matrices(model) if settings.kind == "muon" else []
        own = {id(parameter) for parameter in orthogonal}
        others = [each for each in model.parameters() if each.requires_grad and id(each) not in own]
        self.each: list[Optimizer] = [_build_plain(others, settings, peak)]
        self.peaks = [peak]
        if orthogonal:
            self.each.append(_build_orthogonal(orthogonal, settings))
            self.peaks.append(settings.matrix_learning_rate)

    def __repr__(self) -> str:
        names = " and ".join(type(optimizer).__name__ for optimizer in self.each)
        return f"Optimizers({names})"

    def clear(self) -> None:
        for optimizer in self.each:
            optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        for optimizer in self.each:
            optimizer.step()

    def set_factor(self, factor: float) -> None:
        """Sets the learning rates to a share of their peaks."""
        for optimizer, peak in zip(self.each, self.peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * factor

    def tensors(self) -> dict[str, torch.Tensor]:
        """Returns all state, named optimizer.PARAMETER.NAME. The numbers of parameters run on from one optimiser to the
        next.
        """
        tensors: dict[str, torch.Tensor] = {}
        for first, optimizer in self._counted():
            for index, values in optimizer.state_dict()["state"].items():
                kept = {name: tensor for name, tensor in values.items() if tensor is not None}
                tensors |= {f"{PREFIX}{first + index}.{name}": tensor for name, tensor in kept.items()}
        return tensors

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Reverses `tensors`. Raises ValueError or KeyError for tensors of another model."""
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith(PREFIX):
                index, name = key.removeprefix(PREFIX).split(".")
                state.setdefault(int(index), {})[name] = tensor
        for first, optimizer in self._counted():
            groups = optimizer.state_dict()["param_groups"]
            own = range(first, first + sum(len(group["params"]) for group in groups))
            optimizer.load_state_dict(
                {"state": {index - first: state[index] for index in own if index in state}, "param_groups": groups}
            )

    def _counted(self) -> list[tuple[int, Optimizer]]:
        """Returns each optimiser with the number of parameters before it."""
        counted, first = [], 0
        for optimizer in self.each:
            counted.append((first, optimizer))
            first += sum(len(group["params"]) for group in optimizer.param_groups)
        return counted


def hidden_matrices(model: RecurrentLM) -> Parameters:
    """Returns the stack's matrices that are as wide as the hidden vectors that they multiply."""
    width = model.config.hidden_size
    return [parameter for parameter in model.stack.parameters() if parameter.dim() == 2 and parameter.shape[1] == width]


def _build_plain(parameters: Parameters, settings: OptimizerSettings, rate: float) -> Optimizer:
    """Builds an optimiser in its fused form. Matrices decay, biases do not."""
    matrices = [parameter for parameter in parameters if parameter.dim() > 1]
    biases = [parameter for parameter in parameters if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": biases, "weight_decay": 0.0}]
    if settings.kind == "sgd":
        return SGD(groups, lr=rate, fused=True)
    return AdamW(groups, lr=rate, betas=(settings.beta1, settings.beta2), fused=True)


def _build_orthogonal(parameters: Parameters, settings: OptimizerSettings) -> Optimizer:
    return Muon(parameters, lr=settings.matrix_learning_rate, weight_decay=settings.matrix_weight_decay)
