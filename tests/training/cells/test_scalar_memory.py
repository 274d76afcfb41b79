"""The sLSTM's loop: its backward pass against numerical differentiation, and its memory in half precision."""

import pytest
import torch

from carousel_training.cells.scalar_memory import run_scalar_memory

T, B, H, N = 4, 2, 4, 2
D = H // N
Tensors = tuple[torch.Tensor, ...]


def random(*shape: int, at_least: float | None = None) -> torch.Tensor:
    drawn = torch.randn(*shape, dtype=torch.float64)
    return (drawn if at_least is None else drawn.abs() + at_least).requires_grad_()


def inputs() -> Tensors:
    """The sums, h, c, n, m and the recurrent blocks. Some input gates win the maximum, some do not."""
    torch.manual_seed(0)
    state = (random(B, H), random(B, H), random(B, H, at_least=1.0), random(B, H))
    return (random(T, B, 4 * H), *state, random(N, D, 4 * D))


def run(
    pre: torch.Tensor, h: torch.Tensor, c: torch.Tensor, n: torch.Tensor, m: torch.Tensor, r: torch.Tensor
) -> Tensors:
    return run_scalar_memory(pre, (h, c, n, m), r)


def test_the_gradients_are_those_of_the_function() -> None:
    """By everything it is given, of the outputs and of every part of the final state."""
    assert torch.autograd.gradcheck(run, inputs())


@pytest.mark.parametrize("part", range(4))
def test_each_output_alone_has_its_gradient(part: int) -> None:
    """An output without a gradient counts as zero, whichever it is."""
    assert torch.autograd.gradcheck(lambda *given: run(*given)[part], inputs())


def test_the_loss_of_outputs_does_not_depend_on_the_level() -> None:
    """Shifting m, with c and n as they are to be at that level, changes no output."""
    pre, h, c, n, m, r = inputs()
    shift = 3.0
    y_TBH, *_ = run(pre, h, c, n, m, r)
    shifted_TBH, *_ = run(pre, h, c / torch.e**shift, n / torch.e**shift, m + shift, r)
    torch.testing.assert_close(shifted_TBH, y_TBH)


def test_half_precision_is_near_the_exact_pass() -> None:
    """Products are rounded, the memory is not: after 64 steps it is right to a few percent."""
    torch.manual_seed(0)
    pre_TBG, columns = torch.randn(64, 4, 4 * 16), 0.2 * torch.randn(2, 8, 4 * 8)
    state = (*torch.zeros(2, 4, 16), torch.zeros(4, 16), torch.full((4, 16), -1e30))
    _, c_BH, n_BH, m_BH = run_scalar_memory(pre_TBG, state, columns)
    y_TBH, rough_c_BH, rough_n_BH, rough_m_BH = run_scalar_memory(pre_TBG.bfloat16(), state, columns)
    assert (y_TBH.dtype, rough_c_BH.dtype) == (torch.bfloat16, torch.float32)
    true, rough = c_BH / n_BH, rough_c_BH / rough_n_BH
    assert ((rough - true).norm() / true.norm()).item() < 0.03
    assert (rough_m_BH - m_BH).abs().max().item() < 0.1
