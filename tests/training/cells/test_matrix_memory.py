"""The mLSTM's chunks have the right gradients, and the same results for any length."""

import math

import pytest
import torch

from carousel_training.cells import matrix_memory
from carousel_training.cells.matrix_memory import Gates, run_matrix_memory

B, N, T, K, D = 2, 2, 5, 2, 3
Tensors = tuple[torch.Tensor, ...]


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def inputs(num_steps: int = T) -> Tensors:
    """q, k, v, log f, the input gates' sums, C, n, m."""
    torch.manual_seed(0)
    log_f = torch.nn.functional.logsigmoid(torch.randn(B, N, num_steps, dtype=torch.float64)).requires_grad_()
    shapes = ((B, N, num_steps, K), (B, N, num_steps, K), (B, N, num_steps, D))
    state = (random(B, N, K, D), random(B, N, K), random(B, N))
    return (*(random(*shape) for shape in shapes), log_f, random(B, N, num_steps), *state)


def run(*given: torch.Tensor) -> Tensors:
    """What does not depend on the level: the reading at level 0, and the state as it is."""
    q, k, v, log_f, a_i, *state = given
    reading, after = run_matrix_memory(q, k, v, Gates(log_f, a_i), (state[0], state[1], state[2]))
    scale = torch.exp(reading.m)
    return reading.values * scale[..., None], reading.weights * scale, *after


@pytest.mark.parametrize("chunk", [1, 2, 64])
def test_the_gradients_are_those_of_the_function(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By everything it is given, of readings and final state, whether a chunk is a step, a few or all."""
    monkeypatch.setattr(matrix_memory, "CHUNK", chunk)
    assert torch.autograd.gradcheck(run, inputs())


@pytest.mark.parametrize("part", range(5))
def test_each_output_alone_has_its_gradient(part: int) -> None:
    """An output without a gradient counts as zero, whichever it is."""
    assert torch.autograd.gradcheck(lambda *given: run(*given)[part], inputs())


def test_chunks_of_any_length_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 steps in chunks of 64, of 7 and of 1."""
    found = []
    for chunk in (64, 7, 1):
        monkeypatch.setattr(matrix_memory, "CHUNK", chunk)
        found.append(run(*inputs(200)))
    for other in found[1:]:
        for ours, theirs in zip(other, found[0], strict=True):
            torch.testing.assert_close(ours, theirs)


def test_what_a_gate_wiped_out_leaves_no_rounding_behind() -> None:
    """After a step that forgets nearly everything, float32 tells the steps apart as well as without it."""
    q, k, v, log_f, a_i, *state = (tensor.detach() for tensor in inputs(64))
    log_f[..., 20] = -3e4
    exact = run_matrix_memory(q, k, v, Gates(log_f, a_i), (state[0], state[1], state[2]))[0]
    narrow = (state[0].float(), state[1].float(), state[2].float())
    gates = Gates(log_f.float(), a_i.float())
    rough = run_matrix_memory(q.float(), k.float(), v.float(), gates, narrow)[0]
    assert math.isclose(exact.m[0, 0, -1].item(), rough.m[0, 0, -1].item(), abs_tol=1e-2)
    difference = (rough.values / rough.weights[..., None] - exact.values / exact.weights[..., None]).abs()
    assert difference.median().item() < 1e-6


def test_half_precision_is_near_the_exact_pass() -> None:
    """Products are rounded, shares and the memory are not."""
    q, k, v, log_f, a_i, *state = (tensor.detach().float() for tensor in inputs(100))
    exact, after = run_matrix_memory(q, k, v, Gates(log_f, a_i), (state[0], state[1], state[2]))
    half = (q.bfloat16(), k.bfloat16(), v.bfloat16())
    rough, rough_after = run_matrix_memory(*half, Gates(log_f, a_i), (state[0], state[1], state[2]))
    assert rough_after[0].dtype == torch.float32
    assert ((rough.values - exact.values).norm() / exact.values.norm()).item() < 0.02
    assert ((rough_after[0] - after[0]).norm() / after[0].norm()).item() < 0.02
    torch.testing.assert_close(rough.m, exact.m)
