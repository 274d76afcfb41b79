"""The hand-written backward passes agree with numerical differentiation, in double precision."""

import pytest
import torch

from carousel_training.cells.clockwork import ClockworkStack
from carousel_training.cells.gru_2014 import GRU2014Stack
from carousel_training.cells.linear_scan import linear_scan, scan_by_doubling, scan_in_order
from carousel_training.cells.memory import Forget, Looks, run_memory
from carousel_training.cells.stack import StackShape

T, B, H = 3, 2, 2


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    ("forget", "num_gates", "looks"),
    [
        (Forget.NEVER, 3, []),
        (Forget.COUPLED, 3, []),
        (Forget.LEARNED, 4, []),
        (Forget.LEARNED, 4, [(H,), (2 * H,)]),
        (Forget.LEARNED, 4, [(H, H), (2 * H, H)]),
        (Forget.LEARNED, 4, [None, None, (H,), (T, B, H)]),
        (Forget.LEARNED, 4, [(H,), (2 * H,), (H,), (T, B, H)]),
    ],
)
def test_the_gradients_of_a_memory(forget: Forget, num_gates: int, looks: list[tuple[int, ...] | None]) -> None:
    """They are by the sums, the state, the matrix and whatever else the gates see."""
    torch.manual_seed(0)
    has_depth = len(looks) == 4
    pre_TBG = random(T, B, (num_gates + has_depth) * H)
    extra = [random(*shape) for shape in looks if shape is not None]

    def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pre, h_BH, c_BH, weight_hh, *rest = tensors
        given = Looks(*rest) if not has_depth else Looks(*rest[:-2], depth=rest[-2], below_TBH=rest[-1])  # type: ignore[misc]
        return run_memory(forget, pre, (h_BH, c_BH), weight_hh, given)

    inputs = (pre_TBG, random(B, H), random(B, H), random(num_gates * H, H), *extra)
    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("stack_type", [GRU2014Stack, ClockworkStack])
def test_the_gradients_of_the_other_loops(stack_type: type[GRU2014Stack] | type[ClockworkStack]) -> None:
    """They are by the input and the state; `test_stack.py` compares the weights' with the written equations."""
    torch.manual_seed(0)
    stack = stack_type(StackShape(2, 4, 1, 0.0, num_clocks=2)).double()
    _, *counter = stack.initial_state(B, torch.device("cpu"))

    def run(x_TBX: torch.Tensor, h_BH: torch.Tensor) -> torch.Tensor:
        y_TBH, _ = stack(x_TBX, (h_BH, *counter))
        return y_TBH  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(run, (random(5, B, 2), random(B, 4)))


def test_the_gradients_of_a_linear_scan() -> None:
    """They are by what is kept, what is added and the state before."""
    torch.manual_seed(0)
    assert torch.autograd.gradcheck(linear_scan, (random(5, B, H), random(5, B, H), random(B, H)))


@pytest.mark.parametrize("num_steps", [1, 2, 3, 8, 13, 64])
def test_both_scans_are_the_same(num_steps: int) -> None:
    """Doubling reaches every step, even where their number is no power of two."""
    torch.manual_seed(0)
    kept, added, state = torch.rand(num_steps, 3, 4), torch.randn(num_steps, 3, 4), torch.randn(3, 4)
    torch.testing.assert_close(scan_by_doubling(kept, added, state), scan_in_order(kept, added, state))


def test_a_memory_in_bfloat16_is_near_the_exact_one() -> None:
    """Products are rounded; sums and the memory are not: after 64 additions the memory is right to a percent."""
    torch.manual_seed(0)
    pre_TBG, weight_hh = torch.randn(64, 4, 3 * 16), torch.randn(3 * 16, 16) * 0.2
    state = (torch.zeros(4, 16), torch.zeros(4, 16))
    _, exact_TBH = run_memory(Forget.NEVER, pre_TBG, state, weight_hh, Looks())
    y_TBH, rough_TBH = run_memory(Forget.NEVER, pre_TBG.bfloat16(), state, weight_hh, Looks())
    assert (y_TBH.dtype, rough_TBH.dtype) == (torch.bfloat16, torch.float32)
    assert ((rough_TBH[-1] - exact_TBH[-1]).norm() / exact_TBH[-1].norm()).item() < 0.03
