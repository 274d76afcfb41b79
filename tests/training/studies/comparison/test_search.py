"""A search draws the same for equal names, halves by loss, and never repeats a known trial."""

import pytest

from carousel_training.studies.comparison.search import (
    Space,
    chosen_trial,
    draw_trials,
    open_trials,
    rank,
    rung_sizes,
)


def test_draws_belong_to_name_and_seed() -> None:
    """Equal names and seeds draw the same, others differ, and more trials start with the same ones."""
    few = draw_trials(Space(), 4, "lstm", 3)
    assert draw_trials(Space(), 9, "lstm", 3)[:4] == few
    assert draw_trials(Space(), 4, "lstm-again", 3) != few
    assert draw_trials(Space(), 4, "lstm", 4) != few


def test_draws_fill_the_space() -> None:
    """All within the bounds; the rate is as often below the bounds' geometric mean as above it."""
    space = Space()
    trials = draw_trials(space, 400, "gru", 0)
    for key in ("learning_rate", "warmup_share", "gate_shift", "dropout", "clip_norm"):
        low, high = getattr(space, key)
        values = [getattr(trial, key) for trial in trials]
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high >= max(values) > high - 0.1 * (high - low)
    middle = (space.learning_rate[0] * space.learning_rate[1]) ** 0.5
    assert sum(trial.learning_rate < middle for trial in trials) == pytest.approx(200, abs=30)


@pytest.mark.parametrize(("num_trials", "sizes"), [(16, [16, 8, 4]), (3, [3, 2, 1]), (1, [1, 1, 1])])
def test_each_rung_has_half_of_the_one_before(num_trials: int, sizes: list[int]) -> None:
    """The sizes of rungs are rounded up, at least one."""
    assert rung_sizes(num_trials, 3) == sizes


def test_diverged_trials_come_last_and_equal_ones_in_order() -> None:
    """A diverged trial ranks last."""
    assert rank({0: None, 1: 2.0, 2: 1.0, 3: 2.0}) == [2, 1, 3, 0]


def test_a_rung_opens_when_the_one_before_is_done() -> None:
    """Open are first all trials, then the missing ones, then the better half, then none."""
    sizes = [4, 2, 1]
    assert open_trials([{}, {}, {}], sizes) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert open_trials([{0: 3.0, 1: None, 3: 1.0}, {}, {}], sizes) == [(0, 2)]
    first = {0: 3.0, 1: None, 2: 2.0, 3: 1.0}
    assert open_trials([first, {}, {}], sizes) == [(1, 2), (1, 3)]
    assert open_trials([first, {3: 1.0}, {}], sizes) == [(1, 2)]
    assert open_trials([first, {2: 0.5, 3: 1.0}, {}], sizes) == [(2, 2)]
    assert open_trials([first, {2: 0.5, 3: 1.0}, {2: 0.4}], sizes) == []


def test_what_was_known_of_others_does_not_count() -> None:
    """A loss of a trial that did not reach a rung, left by another plan, does not let it into the next."""
    first = {0: 3.0, 1: 2.5, 2: 2.0, 3: 1.0}
    assert open_trials([first, {0: 0.1, 2: 0.5, 3: 1.0}, {}], [4, 2, 1]) == [(2, 2)]


def test_the_best_of_the_last_rung_is_chosen() -> None:
    """The choice is the best of the last rung, whatever came before, or the first trial without a search."""
    assert chosen_trial([{0: 1.0, 1: 2.0}, {0: 1.5, 1: 1.2}]) == 1
    assert chosen_trial([]) == 0
