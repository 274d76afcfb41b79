"""How far back a cell can remember: it learns a synthetic task with growing gaps, then answers at all of them.

The gap grows when the cell solves the present one, so that a cell never has to find a signal across 64 steps before it
has found one across 2. The result is the gap at which it stops. This module prints nothing. Legend: as in
`recall_tasks`.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from carousel_training.cells.registry import CELLS
from carousel_training.cells.stack import StackShape
from carousel_training.errors import SettingsError
from carousel_training.randomness import seed_generators
from carousel_training.studies.recall_tasks import TASKS, Batch, Task, task_accuracy, task_loss

GAPS = (2, 4, 8, 16, 32, 64, 128)
SOLVED = 0.98
CHECK_EVERY = 25
CHECK_LANES = 256
FINAL_LANES = 1024


@dataclass(frozen=True, slots=True)
class RecallPlan:
    """Sizes and budget of one training, the same for all cells. It ends after `patience_steps` without a longer gap."""

    gaps: tuple[int, ...] = GAPS
    hidden_size: int = 32
    window: int = 8
    num_lanes: int = 64
    max_steps: int = 3000
    patience_steps: int = 1000
    clip_norm: float = 1.0
    seed: int = 0

    def check(self) -> None:
        """Raises SettingsError for gaps that do not grow."""
        if not self.gaps or min(self.gaps) < 1 or list(self.gaps) != sorted(set(self.gaps)):
            raise SettingsError(f"gaps must be positive and grow, and are {self.gaps}")


DEFAULTS = RecallPlan()


@dataclass(frozen=True, slots=True)
class RecallResult:
    """`accuracy` by gap; `solved_gap` is the longest gap that the training solved, 0 if none."""

    task: str
    cell: str
    accuracy: dict[int, float]
    solved_gap: int
    num_steps: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class RecallNet(nn.Module):
    """Runs one layer of the cell on the raw inputs, and a linear layer that answers."""

    def __init__(self, cell: str, task: Task, plan: RecallPlan) -> None:
        super().__init__()
        shape = StackShape(task.num_inputs, plan.hidden_size, 1, 0.0, window=plan.window)
        self.stack = CELLS[cell](shape)
        self.answer = nn.Linear(plan.hidden_size, task.num_outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Returns outputs_NBY at the asked steps. A cell with a window sees zeros before the first step."""
        num_lanes, num_asked = batch.x_TBX.shape[1], len(batch.targets_NB)
        context = batch.x_TBX.new_zeros((self.stack.num_context, *batch.x_TBX.shape[1:]))
        state = self.stack.initial_state(num_lanes, batch.x_TBX.device)
        y_TBH, _ = self.stack(torch.cat([context, batch.x_TBX]), state)
        return torch.as_tensor(self.answer(y_TBH[-num_asked:]))


def learn(task: Task, cell: str, plan: RecallPlan) -> RecallResult:
    """Trains until the longest gap is solved, the steps are spent or patience runs out, then answers at every gap."""
    seed_generators(plan.seed)
    net, generator = RecallNet(cell, task, plan), torch.Generator().manual_seed(plan.seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=CELLS[cell].learning_rate)
    level, last_gain, step = 0, 0, 0
    while level < len(plan.gaps) and step < plan.max_steps and step - last_gain < plan.patience_steps:
        gap = int(torch.randint(1, plan.gaps[level] + 1, (1,), generator=generator))
        _improve(net, optimizer, task.draw(gap, plan.num_lanes, generator), plan.clip_norm)
        step += 1
        if step % CHECK_EVERY == 0 and accuracy_at(net, task, plan.gaps[level], CHECK_LANES, generator) >= SOLVED:
            level, last_gain = level + 1, step
    accuracy = {gap: accuracy_at(net, task, gap, FINAL_LANES, generator) for gap in plan.gaps}
    return RecallResult(task.name, cell, accuracy, plan.gaps[level - 1] if level else 0, step)


@torch.no_grad()
def accuracy_at(net: RecallNet, task: Task, gap: int, num_lanes: int, generator: torch.Generator) -> float:
    """Measures a fresh batch of exactly this gap."""
    batch = task.draw(gap, num_lanes, generator)
    return task_accuracy(net(batch), batch.targets_NB)


def study_recall(
    tasks: Sequence[str], cells: Sequence[str], plan: RecallPlan, report: Callable[[RecallResult], None]
) -> list[RecallResult]:
    """Studies every task with every cell and calls `report` with each result. Raises SettingsError for bad gaps."""
    plan.check()
    results = []
    for task in tasks:
        for cell in cells:
            results.append(learn(TASKS[task], cell, plan))
            report(results[-1])
    return results


def _improve(net: RecallNet, optimizer: torch.optim.Optimizer, batch: Batch, clip_norm: float) -> None:
    loss = task_loss(net(batch), batch.targets_NB)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(net.parameters(), clip_norm)
    optimizer.step()
