"""Prompts get what the bound on a step leaves, whatever steps cost, and one strange step changes nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carousel.engine.step_budget import StepBudget, StepSeconds, StepShape

BOUND = 2.5  # seconds of a step of the waiting lanes alone


class Machine:
    """A machine whose steps take certain seconds for waiting lanes and for a token of each prompt."""

    def __init__(self, alone: float = 0.25, lane: float = 0.02, column: float = 0.05, row: float = 0.01) -> None:
        self.budget = StepBudget()
        self._alone, self._lane, self._column, self._row = alone, lane, column, row

    def alone(self, num_waiting: int) -> float:
        return self._alone + self._lane * num_waiting

    def run(self, num_waiting: int, num_prompts: int, *, slower: float = 1.0) -> tuple[int, float]:
        """Runs a step. Returns the chunk that was decided and the seconds of all."""
        rest = slower * self.alone(num_waiting)
        if not num_prompts:
            self.budget.note(StepShape(num_waiting), StepSeconds(0, 0, rest))
            return 0, rest
        chunk = min(self.budget.chunk(num_waiting, num_prompts), 64)
        prompts = slower * chunk * (self._column + self._row * num_prompts)
        self.budget.note(StepShape(num_waiting, num_prompts, chunk), StepSeconds(prompts, 0, rest))
        return chunk, rest + prompts

    def learn(self, num_waiting: int, num_prompts: int) -> None:
        for _ in range(3):
            self.run(num_waiting, 0)
            self.run(num_waiting, num_prompts)


def test_nothing_known_is_sixteen_tokens() -> None:
    """The prompts share sixteen tokens, with at least one each."""
    assert [StepBudget().chunk(1, num_prompts) for num_prompts in (1, 3, 10, 17, 100)] == [16, 5, 1, 1, 1]


@given(
    st.floats(1e-4, 1),
    st.floats(0, 0.1),
    st.floats(1e-6, 0.5),
    st.floats(0, 0.05),
    st.lists(st.tuples(st.integers(1, 63), st.integers(1, 64)), min_size=1, max_size=10),
)
def test_a_step_keeps_the_bound_and_prompts_get_the_rest(
    alone: float, lane: float, column: float, row: float, companies: list[tuple[int, int]]
) -> None:
    """Lanes and prompts cost and come at will: once a shape is known, a step keeps the bound, and one more token of
    each prompt would break it or come close. The one token that each prompt always gets is excepted."""
    machine = Machine(alone, lane, column, row)
    for num_waiting, num_prompts in companies:
        machine.learn(num_waiting, num_prompts)
        chunk, seconds = machine.run(num_waiting, num_prompts)
        bound = BOUND * machine.alone(num_waiting)
        assert chunk == 1 or seconds <= bound
        assert chunk == 64 or seconds + column + row * num_prompts > 0.95 * bound


def test_two_steps_are_not_enough_to_know() -> None:
    """The first steps of a shape may be anything: until the third, the careful start holds."""
    budget = StepBudget()
    for expected in (16, 16, 28):
        budget.note(StepShape(1), StepSeconds(0, 0, 1.0))
        budget.note(StepShape(1, 1, 4), StepSeconds(0.2, 0, 1.0))
        assert abs(budget.chunk(1, 1) - expected) <= 1


def test_what_is_new_is_guessed_on_the_careful_side() -> None:
    """New numbers of lanes and prompts break no bound in their first step."""
    machine = Machine()
    machine.learn(8, 4)
    for num_waiting, num_prompts in ((63, 4), (8, 30), (1, 1), (2, 64), (40, 2), (1, 3)):
        chunk, seconds = machine.run(num_waiting, num_prompts)
        assert chunk == 1 or seconds <= BOUND * machine.alone(num_waiting)


@pytest.mark.parametrize("slower", [100.0, 0.01])
def test_one_strange_step_changes_nothing(slower: float) -> None:
    """A step that took a hundred times as long, or as short, neither ends nor widens the budget."""
    machine = Machine()
    machine.learn(1, 2)
    machine.learn(1, 2)
    expected, _ = machine.run(1, 2)
    machine.run(1, 2, slower=slower)
    assert machine.run(1, 2)[0] == expected
    machine.run(1, 0, slower=slower)
    assert machine.run(1, 2)[0] == expected


def test_a_machine_that_became_slower_is_followed() -> None:
    """This holds even when no step without prompts shows it: the chunk comes back to what it was."""
    machine = Machine()
    machine.learn(1, 2)
    before, _ = machine.run(1, 2)
    for _ in range(9):
        machine.run(1, 2, slower=3.0)
    after, _ = machine.run(1, 2, slower=3.0)
    assert before - 2 <= after <= before


def test_what_prompts_do_to_the_others_is_theirs_to_pay() -> None:
    """Where lanes are up to a seventh slower beside prompts than alone, the whole step keeps the bound."""
    budget = StepBudget()
    for _ in range(3):
        budget.note(StepShape(1), StepSeconds(0, 0, 1.0))
        budget.note(StepShape(1, 1, 4), StepSeconds(0.4, 0, 1.14))
    assert budget.chunk(1, 1) == 12
    assert 1.14 + 0.1 * budget.chunk(1, 1) <= BOUND


def test_rating_tokens_is_part_of_what_they_cost() -> None:
    """Prompts that are scored get shorter chunks by what their ratings take, each for itself; unknown ones begin small
    again."""
    budget = StepBudget()
    for _ in range(3):
        budget.note(StepShape(1), StepSeconds(0, 0, 1.0))
        budget.note(StepShape(1, 2, 4), StepSeconds(0.08, 0, 1.0))
    assert budget.chunk(1, 2) == 70
    assert budget.chunk(1, 2, 1) == 8
    budget.note(StepShape(1, 2, 4, 4), StepSeconds(0.08, 0.3, 1.0))
    assert budget.chunk(1, 2, 1) == 14
    assert budget.chunk(1, 2, 2) == 8
    assert budget.chunk(1, 2) == 70
