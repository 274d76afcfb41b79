"""A lane gives back what was put onto it, and lanes do not touch each other."""

import random

import numpy as np

from carousel.bundle.layout import Array, StateBatch
from carousel.engine.states import LaneStates
from carousel.turns import Snapshot


def snapshot(value: int) -> Snapshot:
    state = (np.full((2, 3), value, np.float32), np.asarray(value, np.int64))
    return Snapshot(value, state, np.full(4, -value, np.float32))


def batch(values: list[int]) -> tuple[StateBatch, Array]:
    """Makes state and hidden vectors as a model puts them out."""
    h_B23 = np.array(values, np.float32)[:, None, None] * np.ones((2, 3), np.float32)
    return (h_B23, np.array(values)), -np.array(values, np.float32)[:, None] * np.ones(4, np.float32)


def value_on(states: LaneStates, lane: int) -> int:
    """Returns the number of the snapshot on a lane, on which all its parts must agree."""
    (h, n), hidden_H = states.save(lane)
    np.testing.assert_array_equal(h, np.full((2, 3), n))
    np.testing.assert_array_equal(hidden_H, np.full(4, -n))
    return int(n)


def test_load_and_save_are_opposites() -> None:
    """Every lane gives back what was loaded onto it, whatever is loaded onto the others."""
    states = LaneStates()
    for lane in range(3):
        states.load(lane, snapshot(lane + 1))
    assert [value_on(states, lane) for lane in range(3)] == [1, 2, 3]


def test_what_was_saved_does_not_follow_the_lane() -> None:
    """Saved arrays are copies: they do not keep a batch alive or share it."""
    states = LaneStates()
    states.load(0, snapshot(1))
    states.scatter([0], *batch([7]))
    saved, hidden_H = states.save(0)
    assert all(array.base is None for array in (*saved, hidden_H) if array.ndim)
    states.load(0, snapshot(2))
    assert saved[1] == 7


def test_loading_does_not_write_into_the_snapshot() -> None:
    """Whatever comes onto the lane later, the snapshot that was loaded stays as it was."""
    states = LaneStates()
    loaded = snapshot(3)
    states.load(1, loaded)
    states.scatter([1], *batch([9]))
    states.load(1, snapshot(4))
    assert loaded.state[0][0, 0] == 3
    assert loaded.hidden_H[0] == -3


def test_lanes_that_stay_together_are_not_copied() -> None:
    """The model gets for the same lanes what it put out for them, the very same arrays."""
    states = LaneStates()
    for lane in (4, 2):
        states.load(lane, snapshot(lane))
    for values in ([1, 2], [3, 4]):
        state, hidden_BH = batch(values)
        states.scatter([4, 2], state, hidden_BH)
        assert states.gather([4, 2]) is state
        assert states.hidden([4, 2]) is hidden_BH


def test_any_company_in_any_order() -> None:
    """Lanes that join, leave, change places and are loaded anew always find their own rows (checked against a dict)."""
    dice = random.Random(1)
    states, expected = LaneStates(), dict.fromkeys(range(6), 0)
    for lane in expected:
        states.load(lane, snapshot(0))
    for number in range(1, 400):
        if dice.random() < 0.3:
            lane = dice.randrange(6)
            states.load(lane, snapshot(number))
            expected[lane] = number
        lanes = dice.choice([[0, 1, 2], [2, 1, 0], [3, 4], [5], dice.sample(range(6), dice.randint(1, 6))])
        state = [np.asarray(batch) for batch in states.gather(lanes)]
        assert state[1].tolist() == [expected[lane] for lane in lanes]
        assert state[0][:, 1, 2].tolist() == state[1].tolist()
        assert np.asarray(states.hidden(lanes))[:, 3].tolist() == [-expected[lane] for lane in lanes]
        values = [1000 * number + lane for lane in lanes]
        states.scatter(lanes, *batch(values))
        expected |= dict(zip(lanes, values, strict=True))
    assert {lane: value_on(states, lane) for lane in expected} == expected
