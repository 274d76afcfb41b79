"""The moving parts of one run, and one optimisation step: forward, backward, clip, update, carry the state.

The trainer reads no clock, writes no file and prints nothing; `fit.py` decides when to evaluate, save and stop.
Everything that decides the next step is in `tensors()` and `facts()`, so a restored trainer continues bit for bit.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from carousel_training.averaging import WeightAverage
from carousel_training.batches import TrainingBatches
from carousel_training.cells.stack import State, start_afresh
from carousel_training.checkpoint import MODEL_PREFIX, model_tensors
from carousel_training.errors import CheckpointError
from carousel_training.model import RecurrentLM, detach
from carousel_training.optimizers import Optimizers
from carousel_training.precision import Compute
from carousel_training.processes import ProcessGroup
from carousel_training.randomness import seed_step
from carousel_training.sampled_softmax import NegativeSampler
from carousel_training.schedule import rate_factor
from carousel_training.settings import OptimizerSettings

CARRIED_PREFIX = "carried."
WINDOW = "window"


class Trainer:
    """Weights, optimiser, carried state and step counter of one run. `step` counts the finished steps."""

    def __init__(
        self,
        model: RecurrentLM,
        batches: TrainingBatches,
        settings: OptimizerSettings,
        compute: Compute,
        sampler: NegativeSampler | None = None,
    ) -> None:
        self.model = model
        self.batches = batches
        self.compute = compute
        self.step = 0
        self._settings = settings
        self._sampler = sampler
        self._optimizers = Optimizers(model, settings)
        self.learning_rate = self._optimizers.peaks[0]
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.average = WeightAverage(model, settings)
        self._carried: State = ()
        self._group = ProcessGroup.current()
        self._group.share(model.parameters())
        # Sums since the last log entry: loss, gradient norm, steps. On the device, so that a GPU need not wait.
        self._window = torch.zeros(3, dtype=torch.float64, device=model.device)

    def __repr__(self) -> str:
        return f"Trainer(step {self.step}, {self.model.num_parameters} parameters, {self.compute.describe()})"

    @property
    def is_sampled(self) -> bool:
        """Whether the loss compares targets with drawn words only.

        The logarithm of an estimated normaliser is too small on average, so such nats are too low. Validation uses all
        words.
        """
        return self._sampler is not None

    @property
    def num_tokens(self) -> int:
        """The number of tokens trained on so far."""
        return self.step * self.batches.tokens_per_step

    def advance(self, progress: float, factor: float | None = None) -> None:
        """Runs one optimisation step.

        The learning rate follows `progress`, the share of the run that is done, or is `factor` of the peak if given.
        """
        self._set_rate(rate_factor(self._settings, progress) if factor is None else factor)
        inputs_BT, targets_BT, is_fresh_B = map(self._group.own_lanes, self.batches.segment_at(self.step))
        initial = self.model.initial_state(len(inputs_BT))
        state = start_afresh(self._carried, initial, is_fresh_B) if self._carried else initial
        seed_step(self.batches.seed, self.step, self._group.rank)
        negatives = None if self._sampler is None else self._sampler.draw()
        with self.compute.autocast():
            nats, penalty, state = self.model.objective(inputs_BT, targets_BT, state, negatives)
        self._optimizers.clear()
        (nats + penalty).backward()  # type: ignore[no-untyped-call]
        self._group.average_gradients(self._parameters)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._settings.clip_norm)
        self._optimizers.step()
        self.average.update(progress)
        self._carried = detach(state)
        self._window += torch.stack([nats.detach(), norm, torch.ones_like(norm)])
        self.step += 1

    def pop_means(self) -> tuple[float, float]:
        """Returns mean nats per token and mean gradient norm over the steps since the last call, and resets them."""
        loss_sum, norm_sum, num_steps = self._group.mean(self._window).tolist()
        self._window.zero_()
        return loss_sum / max(num_steps, 1.0), norm_sum / max(num_steps, 1.0)

    def weights(self) -> dict[str, torch.Tensor]:
        return {f"{MODEL_PREFIX}{name}": tensor for name, tensor in self.model.state_dict().items()}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Returns all tensors that the next step depends on. All processes of a run must call it together."""
        tensors = self.weights() | {WINDOW: self._group.mean(self._window)}
        tensors |= {f"{CARRIED_PREFIX}{index}": self._group.all_lanes(t) for index, t in enumerate(self._carried)}
        return tensors | self._optimizers.tensors() | self.average.tensors()

    def facts(self) -> dict[str, Any]:
        """Returns everything else that the next step depends on."""
        return {"step": self.step, "average": self.average.facts()}

    def restore(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Continues from saved `tensors` and `facts`. Raises CheckpointError for those of another model."""
        try:
            self.model.load_state_dict(model_tensors(tensors))
            self._optimizers.restore(tensors)
            self.average.restore(tensors, facts["average"])
            self._window.copy_(tensors[WINDOW])
            self.step = facts["step"]
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint does not fit the model of this run: {error}") from error
        num_carried = sum(name.startswith(CARRIED_PREFIX) for name in tensors)
        carried = [tensors[f"{CARRIED_PREFIX}{index}"].to(self.model.device) for index in range(num_carried)]
        self._carried = tuple(self._group.own_lanes(tensor) for tensor in carried)

    def _set_rate(self, factor: float) -> None:
        self.learning_rate = self._optimizers.peaks[0] * factor
        self._optimizers.set_factor(factor)
