"""The blockwise output loss against torch's cross-entropy."""

import pytest
import torch
from torch.nn import functional

from carousel_training import output_loss


@pytest.mark.parametrize("num_rows", [1, 4, 5, 11])
def test_blocks_do_not_show(num_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradients are torch's, whether rows fill their blocks, leave a rest, or are fewer than one block."""
    monkeypatch.setattr(output_loss, "MIN_BLOCK_ROWS", 4)
    monkeypatch.setattr(output_loss, "BLOCK_LOGITS", 1)
    torch.manual_seed(0)
    rows = torch.randn(num_rows, 6, requires_grad=True)
    weight, bias = torch.randn(9, 6, requires_grad=True), torch.randn(9, requires_grad=True)
    targets = torch.randint(9, (num_rows,))
    found = output_loss.output_loss(rows, weight, bias, targets)
    expected = functional.cross_entropy(functional.linear(rows, weight, bias), targets)
    torch.testing.assert_close(found, expected)
    leaves = (rows, weight, bias)
    torch.testing.assert_close(torch.autograd.grad(found * 3.0, leaves), torch.autograd.grad(expected * 3.0, leaves))


def test_large_logits_stay_finite() -> None:
    """The maximum is subtracted before exp, so large logits give a finite loss."""
    rows = torch.full((2, 1), 1000.0)
    loss = output_loss.output_loss(rows, torch.tensor([[1.0], [0.0]]), torch.zeros(2), torch.tensor([0, 0]))
    assert loss.item() == 0.0
