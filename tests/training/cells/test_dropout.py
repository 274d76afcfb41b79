"""Each kind of dropout has the right mask and scale, and does nothing outside training."""

from collections.abc import Callable

import pytest
import torch

from carousel_training.cells.dropout import drop_units, drop_weights, drop_words

SHARE = 0.4


def test_dropped_units_are_drawn_anew_at_every_step() -> None:
    """Without a lock the masks of two steps differ; what is kept is scaled by 1 / (1 - share)."""
    torch.manual_seed(0)
    y_TBX = drop_units(torch.ones(5, 3, 40), SHARE, is_locked=False, is_training=True)
    assert not torch.equal(y_TBX[0], y_TBX[1])
    torch.testing.assert_close(torch.unique(y_TBX), torch.tensor([0.0, 1.0 / (1.0 - SHARE)]))


def test_a_locked_mask_lasts_all_steps_and_differs_between_lanes() -> None:
    """One mask [1,B,X]: equal over time, different from lane to lane, of about the share."""
    torch.manual_seed(0)
    y_TBX = drop_units(torch.ones(5, 3, 400), SHARE, is_locked=True, is_training=True)
    assert torch.equal(y_TBX, y_TBX[:1].expand(5, 3, 400))
    assert not torch.equal(y_TBX[:, 0], y_TBX[:, 1])
    assert (y_TBX == 0).float().mean().item() == pytest.approx(SHARE, abs=0.05)


def test_words_are_dropped_as_whole_rows() -> None:
    """Every row is either zero or scaled as a whole."""
    torch.manual_seed(0)
    weight_VX = drop_words(torch.ones(300, 4), SHARE, is_training=True)
    assert torch.equal(weight_VX, weight_VX[:, :1].expand(300, 4))
    assert (weight_VX[:, 0] == 0).float().mean().item() == pytest.approx(SHARE, abs=0.1)


def test_weights_are_dropped_one_by_one_and_still_learn() -> None:
    """The gradient reaches the raw weight, and is zero where the weight was dropped."""
    torch.manual_seed(0)
    weight = torch.ones(30, 30, requires_grad=True)
    dropped = drop_weights(weight, SHARE, is_training=True)
    dropped.sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, dropped.detach())
    assert (dropped == 0).float().mean().item() == pytest.approx(SHARE, abs=0.1)


@pytest.mark.parametrize(
    "drop",
    [
        lambda x, share, on: drop_units(x, share, is_locked=False, is_training=on),
        lambda x, share, on: drop_units(x, share, is_locked=True, is_training=on),
        lambda x, share, on: drop_weights(x, share, is_training=on),
        lambda x, share, on: drop_words(x, share, is_training=on),
    ],
)
def test_outside_training_and_for_a_share_of_nothing_it_is_the_identity(
    drop: Callable[[torch.Tensor, float, bool], torch.Tensor],
) -> None:
    """The same tensor comes back, and the generator is unchanged."""
    x = torch.randn(3, 4, 5)
    before = torch.get_rng_state()
    assert drop(x, SHARE, False) is x
    assert drop(x, 0.0, True) is x
    assert torch.equal(before, torch.get_rng_state())
