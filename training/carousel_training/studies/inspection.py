"""This module records the gates and cells of a trained network over a text, and finds the units that switch most
sharply.

Legend: T steps (the start token first), H hidden width, U units.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from carousel_training.cells.stack import State
from carousel_training.checkpoint import TrainedModel
from carousel_training.errors import CorpusError
from carousel_training.model import RecurrentLM

OFF, ON = 0.2, 0.8
Trace = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Recording:
    """A text's tokens as written, and for each gate or state vector, such as f_0 or c_0, its values over the tokens.

    `raw` [T,H] holds the network's values. `nats` is the surprise at each token.
    """

    tokens: tuple[str, ...]
    nats: tuple[float, ...]
    raw: Mapping[str, Trace]


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit of one gate. `switches` are the steps at which it goes from off to on or back; see `rank_units`."""

    name: str
    index: int
    sharpness: float
    decided: float
    jump: float
    switches: tuple[int, ...]

    @property
    def label(self) -> str:
        return f"{self.name}[{self.index}]"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def record(trained: TrainedModel, text: str) -> Recording:
    """Steps through the text after a start token. Raises CorpusError when the text has no tokens."""
    ids = trained.tokenizer.encode(text)
    if not ids:
        raise CorpusError("the text to inspect is empty")
    model = trained.model.eval()
    hidden_1H, state, _ = _step(model, trained.tokenizer.start_id, model.initial_state(1))
    nats: list[float] = []
    rows: dict[str, list[torch.Tensor]] = {}
    for token in ids:
        nats.append(float(functional.cross_entropy(model.logits(hidden_1H), torch.tensor([token]))))
        hidden_1H, state, values = _step(model, token, state)
        for name, values_H in values.items():
            rows.setdefault(name, []).append(values_H)
    raw = {name: torch.stack(column).double().numpy() for name, column in rows.items()}
    spellings = tuple(trained.tokenizer.token_bytes(index).decode("utf-8", "replace") for index in ids)
    return Recording(spellings, tuple(nats), raw)


def activation(raw_TH: Trace) -> Trace:
    """Maps values to a range from 0 (off) to 1 (on): a sigmoid's as they are, a tanh's from [-1, 1], a sum's after its
    tanh.
    """
    if raw_TH.min() >= 0.0 and raw_TH.max() <= 1.0:
        return raw_TH
    squashed_TH = raw_TH if np.abs(raw_TH).max() <= 1.0 else np.tanh(raw_TH)
    return np.asarray((squashed_TH + 1.0) / 2.0)


def rank_units(recording: Recording) -> list[Unit]:
    """Returns all units that switch at all, the sharpest first.

    A unit is on above 0.8, off below 0.2, and undecided between. It switches at the step at which it is on after it was
    last off, or the other way round. Its sharpness is the share of steps at which it is decided, times the mean change
    within the single step that ended each switch: 1 for a unit that is always fully on or off, 0 for one that drifts.
    """
    units = [
        _judge(name, index, series_T)
        for name, raw_TH in recording.raw.items()
        for index, series_T in enumerate(activation(raw_TH).T)
    ]
    return sorted((unit for unit in units if unit.switches), key=lambda unit: (-unit.sharpness, unit.label))


def _judge(name: str, index: int, series_T: Trace) -> Unit:
    is_decided_T = (series_T >= ON) | (series_T <= OFF)
    decided_steps = np.flatnonzero(is_decided_T)
    is_on = series_T[decided_steps] >= ON
    switches = decided_steps[1:][is_on[1:] != is_on[:-1]]
    decided = float(is_decided_T.mean())
    jump = float(np.abs(series_T[switches] - series_T[switches - 1]).mean()) if len(switches) else 0.0
    return Unit(name, index, decided * jump, decided, jump, tuple(int(step) for step in switches))


def _step(model: RecurrentLM, token: int, state: State) -> tuple[torch.Tensor, State, dict[str, torch.Tensor]]:
    """Returns hidden_1H, the next state, and all gates and real-valued state vectors [H] by name.

    A memory of another shape has no units to show.
    """
    ids_SB, state = model.stack.remember(torch.tensor([[token]]), state)
    output_1H, state, gates = model.stack.step(model.embed(ids_SB), state)
    values = {name: values_1H[0] for name, values_1H in gates.items()}
    for tensor, value in zip(model.state_layout.tensors, state, strict=True):
        if value.dtype.is_floating_point and value.shape == output_1H.shape:
            values[tensor.name] = value[0]
    return output_1H, state, values
