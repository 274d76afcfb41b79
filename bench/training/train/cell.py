"""What each cell costs in training: speed against torch's LSTM of the same width.

    python -m bench.training.train.cell

One layer of 256 units on 32 lanes of 64 tokens, forward and backward, in float32; the depth-gated cell has two layers
and is held against two of the LSTM. Rounds alternate between the cells and the best of each counts.
"""

import time

import torch
from bench.harness.report import print_figure, print_machine

from carousel_training.cells.registry import CELLS
from carousel_training.cells.stack import RecurrentStack, StackShape

WIDTH, NUM_LANES, SEGMENT = 256, 32, 64
NUM_ROUNDS = 5
MIN_SHARE_OF_LSTM_SPEED = 1 / 3
MINIMAL_CELLS = ("minlstm", "mingru")
NUM_LAYERS = {"lstm-depth-gated": 2}


def main() -> None:
    print_machine()
    for name, share in training_speeds().items():
        target = 1.0 if name in MINIMAL_CELLS else MIN_SHARE_OF_LSTM_SPEED
        print_figure(f"train.cell.{name}.over_lstm_speed", share, "ratio", at_least=target)


def training_speeds() -> dict[str, float]:
    """Speed of each cell as a share of the LSTM's with as many layers."""
    depths = sorted({1, *NUM_LAYERS.values()})
    stacks = {("lstm", depth): build("lstm", depth) for depth in depths}
    stacks |= {(name, NUM_LAYERS.get(name, 1)): build(name, NUM_LAYERS.get(name, 1)) for name in CELLS}
    best = dict.fromkeys(stacks, float("inf"))
    for _ in range(NUM_ROUNDS):
        for key, stack in stacks.items():
            best[key] = min(best[key], seconds_per_pass(stack))
    return {name: best["lstm", depth] / seconds for (name, depth), seconds in best.items() if name != "lstm"}


def build(name: str, num_layers: int) -> RecurrentStack:
    torch.manual_seed(0)
    return CELLS[name](StackShape(WIDTH, WIDTH, num_layers, 0.0))


def seconds_per_pass(stack: RecurrentStack) -> float:
    """Forward and backward over one segment, after one to warm up."""
    state = stack.initial_state(NUM_LANES, torch.device("cpu"))
    x_SBX = torch.randn(SEGMENT + stack.num_context, NUM_LANES, WIDTH, requires_grad=True)
    for _ in range(2):
        started = time.perf_counter()
        y_TBH, _ = stack(x_SBX, state)
        y_TBH.sum().backward()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
