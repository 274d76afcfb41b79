"""What is put onto a lane is what comes back from it, and lanes do not touch each other."""

import numpy as np

from carousel.bundle.layout import StateLayout, StateTensor
from carousel.engine.states import LaneStates
from carousel.turns import Snapshot

LAYOUT = StateLayout((StateTensor("h", (2, 3), "float32"), StateTensor("n", (), "int64", initial=5)))


def snapshot(value: int) -> Snapshot:
    return Snapshot(value, (np.full((2, 3), value, np.float32), np.asarray(value, np.int64)), np.full(4, -value))


def test_load_and_save_are_opposites() -> None:
    """Every lane gives back what was loaded onto it, whatever is loaded onto the others."""
    states = LaneStates(LAYOUT, 4, 3)
    for lane in range(3):
        states.load(lane, snapshot(lane + 1))
    for lane in range(3):
        (h, n), hidden_H = states.save(lane)
        np.testing.assert_array_equal(h, np.full((2, 3), lane + 1))
        assert n == lane + 1
        np.testing.assert_array_equal(hidden_H, np.full(4, -lane - 1))


def test_what_was_saved_does_not_follow_the_lane() -> None:
    """Saved arrays are copies: loading the lane anew leaves them."""
    states = LaneStates(LAYOUT, 4, 1)
    states.load(0, snapshot(1))
    saved, hidden_H = states.save(0)
    states.load(0, snapshot(2))
    assert saved[0][0, 0] == 1
    assert saved[1] == 1
    assert hidden_H[0] == -1


def test_loading_does_not_tie_the_lane_to_the_snapshot() -> None:
    """Scattering into a lane leaves the snapshot that was loaded as it was."""
    states = LaneStates(LAYOUT, 4, 2)
    loaded = snapshot(3)
    states.load(1, loaded)
    states.scatter([1], (np.zeros((1, 2, 3), np.float32), np.zeros(1, np.int64)), np.zeros((1, 4), np.float32))
    assert loaded.state[0][0, 0] == 3
    assert loaded.hidden_H[0] == -3


def test_gather_and_scatter_are_opposites_in_any_order() -> None:
    """Row b of a batch is lanes[b]; scattering writes those lanes and no others."""
    states = LaneStates(LAYOUT, 4, 4)
    for lane in range(4):
        states.load(lane, snapshot(lane))
    h_B23, n_B = states.gather([3, 1])
    assert n_B.tolist() == [3, 1]
    states.scatter([3, 1], (h_B23 * 10, n_B * 10), np.stack([np.full(4, 30), np.full(4, 10)]))
    assert [int(states.save(lane)[0][1]) for lane in range(4)] == [0, 10, 2, 30]
    assert [states.save(lane)[1][0] for lane in range(4)] == [0, 10, -2, 30]
    assert [states.save(lane)[0][0][1, 2] for lane in range(4)] == [0, 10, 2, 30]
