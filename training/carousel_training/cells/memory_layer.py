"""A layer with an additive memory c, for the members of the LSTM family without a torch kernel.

It knows the gates from the cell's tables alone. Legend: T steps, B lanes, X input width, H hidden width.
"""

from typing import ClassVar

import torch

from carousel_training.cells.initial import KEEPING_BIAS
from carousel_training.cells.layered_stack import LayerRun, RecurrentLayer
from carousel_training.cells.memory import Forget, Looks, run_memory
from carousel_training.cells.stack import StackShape, State, Step


class MemoryLayer(RecurrentLayer):
    """Starts a forget gate open, as in every cell (`initial.py`)."""

    parts = ("h", "c")
    gates: ClassVar[tuple[str, ...]] = ("o", "i", "f", "g")
    num_recurrent = 4
    forget: ClassVar[Forget] = Forget.LEARNED

    def __init__(self, shape: StackShape, layer: int) -> None:
        super().__init__(shape, layer)
        if self.forget is Forget.LEARNED:
            with torch.no_grad():
                self.bias[self.rows("f")].fill_(KEEPING_BIAS)

    def looks(self) -> Looks:
        """Returns what the gates see besides x_t and h_{t-1}."""
        return Looks()

    def sequence(self, x_TBX: torch.Tensor, state: State, below_TBH: torch.Tensor | None) -> LayerRun:
        return self._run(self.from_input(x_TBX), state, self.looks())

    def step(self, x_BX: torch.Tensor, state: State, below_BH: torch.Tensor | None) -> Step:
        """Computes the written equations of a cell whose gates see x_t and h_{t-1} alone; other cells override it."""
        h_BH, c_BH = state
        sums = self.split(self.from_input(x_BX) + h_BH @ self.weight_hh.t())
        gates = {name: torch.sigmoid(values) for name, values in sums.items()}
        gates["g"] = torch.tanh(sums["g"])
        match self.forget:
            case Forget.LEARNED:
                kept_BH = gates["f"] * c_BH
            case Forget.COUPLED:
                kept_BH = (1.0 - gates["i"]) * c_BH
            case Forget.NEVER:
                kept_BH = c_BH
        c_BH = kept_BH + gates["i"] * gates["g"]
        h_BH = gates["o"] * torch.tanh(c_BH)
        return Step(h_BH, (h_BH, c_BH), gates)

    def _run(self, pre_TBG: torch.Tensor, state: State, looks: Looks) -> LayerRun:
        y_TBH, c_TBH = run_memory(self.forget, pre_TBG, state, self.recurrent(), looks)
        return LayerRun(y_TBH, (y_TBH[-1], c_TBH[-1]), c_TBH)
