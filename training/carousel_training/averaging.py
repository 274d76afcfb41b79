"""The mean of the weights over the steps since some step, and the rules that choose that step. It changes no optimiser.

`tail` begins at a share of the run (0: averaged SGD, Polyak & Juditsky 1992). `non-monotone` begins after a validation
that is worse than the best of all but the last few before it (NT-ASGD, Merity et al. 2017).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from carousel_training.settings import OptimizerSettings

PREFIX = "average."


class WeightAverage:
    """Means of a model's parameters. There are none until a rule begins them, and the rule `none` never does."""

    def __init__(self, model: nn.Module, settings: OptimizerSettings) -> None:
        self.num_steps = 0
        self._parameters: list[torch.Tensor] = list(model.parameters())
        self._settings = settings
        self._means: list[torch.Tensor] = []
        self._validations: list[float] = []

    def __repr__(self) -> str:
        return f"WeightAverage({self._settings.averaging}, {self.num_steps} steps)"

    @property
    def is_begun(self) -> bool:
        return bool(self._means)

    def observe(self, nats: float) -> None:
        """Records a validation's result. Validations come in order."""
        earlier = self._validations[: -self._settings.average_after_worse or None]
        if self._settings.averaging == "non-monotone" and not self.is_begun and earlier and nats > min(earlier):
            self._begin()
        self._validations.append(nats)

    @torch.no_grad()
    def update(self, progress: float) -> None:
        """Adds the weights after a step. `progress` is the share of the run that was done before the step."""
        if self._settings.averaging == "tail" and not self.is_begun and progress >= self._settings.average_from:
            self._begin()
        if self.is_begun:
            self.num_steps += 1
            torch._foreach_lerp_(self._means, self._parameters, 1.0 / self.num_steps)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Gives the model the means as its weights, if there are any, and its own weights back at the end."""
        if self.num_steps == 0:
            yield
            return
        own = [parameter.detach().clone() for parameter in self._parameters]
        self._write(self._means)
        try:
            yield
        finally:
            self._write(own)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {f"{PREFIX}{index}": mean for index, mean in enumerate(self._means)}

    def facts(self) -> dict[str, Any]:
        return {"num_steps": self.num_steps, "validations": self._validations}

    def restore(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Raises KeyError or RuntimeError for values of another model."""
        self.num_steps, self._validations = facts["num_steps"], list(facts["validations"])
        self._means = []
        if any(name.startswith(PREFIX) for name in tensors):
            self._begin()
            for index, mean in enumerate(self._means):
                mean.copy_(tensors[f"{PREFIX}{index}"])

    def _begin(self) -> None:
        self._means = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def _write(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)
