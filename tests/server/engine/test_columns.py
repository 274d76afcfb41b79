"""A step over columns is, row for row, what the model does with each sequence alone; it writes where it is told, and
nowhere else."""

import numpy as np
import pytest
from tests.fakes import SlowOracle, ToyModel, same_snapshot

from carousel.bundle.layout import Array, Rows, StateBatch
from carousel.engine import columns as engine_columns
from carousel.engine.columns import Advances, Columns
from carousel.engine.model import Candidates
from carousel.turns import Snapshot

RING = 4


class Nobody:
    def done(self) -> bool:
        return False

    def set_result(self, found: object, /) -> None: ...

    def set_exception(self, error: Exception, /) -> None: ...


def make_columns(model: ToyModel, max_bytes: int = 2**16) -> Columns:
    return Columns(model.layout, model.hidden_size, RING, max_bytes)


def take(columns: Columns) -> int:
    row = columns.allocate_slot()
    assert row is not None
    return row


def advances(*steps: tuple[int, int, int, int]) -> Advances:
    made = Advances()
    for row, next_row, token_id, num_candidates in steps:
        made.add(row, next_row, token_id, num_candidates, Nobody())
    return made


def stored(columns: Columns, row: int, like: Snapshot) -> Snapshot:
    """What lies in a row, with what else `like` has."""
    state, hidden_H = columns.save(row)
    return Snapshot(like.position, tuple(array.copy() for array in state), hidden_H.copy(), like.recent_ids)


def test_rows_of_a_step_are_alone() -> None:
    """Each has the oracle's state and candidates, whatever stands beside it, in any order of rows."""
    model = ToyModel()
    oracle, columns = SlowOracle(model), make_columns(model)
    starts = [oracle.feed(oracle.start(), range(number)) for number in range(7)]
    rows = [take(columns) for _ in starts]
    for row, start in zip(rows, starts, strict=True):
        columns.load(row, start)
    order = [3, 0, 6, 2, 5, 1, 4]
    found = columns.run(model, advances(*[(rows[one], rows[one] + 1, one + 1, 3) for one in order]))
    for index, one in enumerate(order):
        expected = oracle.feed(starts[one], [one + 1])
        assert same_snapshot(stored(columns, rows[one] + 1, expected), expected)
        assert same_snapshot(stored(columns, rows[one], starts[one]), starts[one])
        likeliest = model.candidates(expected.hidden_H[None], 3)
        assert found.ids_AK[index] == likeliest.ids_NK[0].tolist()
        assert found.log_probs_AK[index] == likeliest.log_probs_NK[0].tolist()
        assert found.is_finite_A[index]


def test_what_no_step_names_stays() -> None:
    """Bit for bit: all rows of all other slots, and the other rows of the ring."""
    model = ToyModel()
    columns = make_columns(model)
    slots = [take(columns) for _ in range(3)]
    start = SlowOracle(model).start()
    for row in range(3 * RING):
        columns.load(row, start)
    columns.run(model, advances((slots[1] + 3, slots[1], 5, 1)))
    changed = [row for row in range(3 * RING) if not same_snapshot(stored(columns, row, start), start)]
    assert changed == [slots[1]]


def test_a_row_that_is_no_number_is_told_and_its_neighbours_are_not() -> None:
    model = ToyModel()
    model.poison_id = 9
    columns = make_columns(model)
    rows = [take(columns) for _ in range(3)]
    for row in rows:
        columns.load(row, SlowOracle(model).start())
    with np.errstate(invalid="ignore"):
        found = columns.run(model, advances(*[(row, row + 1, 9 if row == rows[1] else 1, 2) for row in rows]))
    assert found.is_finite_A == [True, False, True]


class HalfBroken(ToyModel):
    """Its hidden vectors are numbers, and its log-probabilities are not, or the other way round."""

    def __init__(self, *, hidden: bool) -> None:
        super().__init__()
        self._breaks_hidden = hidden

    def core(self, ids_BT: Array, lengths_B: Array, state: StateBatch) -> tuple[Array, StateBatch]:
        hidden_BTH, after = super().core(ids_BT, lengths_B, state)
        if self._breaks_hidden:
            hidden_BTH[..., -1] = np.inf
        return hidden_BTH, after

    def candidates(self, hidden_NH: Rows, num_candidates: int) -> Candidates:
        found = super().candidates(np.zeros_like(np.asarray(hidden_NH)), num_candidates)
        return found if self._breaks_hidden else found._replace(log_normalizer_N=np.full(hidden_NH.shape[0], np.nan))


@pytest.mark.parametrize("hidden", [True, False])
def test_either_half_that_is_no_number_is_told(hidden: bool) -> None:
    model = HalfBroken(hidden=hidden)
    columns = make_columns(model)
    columns.load(take(columns), SlowOracle(ToyModel()).start())
    assert columns.run(model, advances((0, 1, 1, 2))).is_finite_A == [False]


class WideModel(ToyModel):
    """With a large vocabulary; remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__(100)
        self.asked: list[tuple[int, int]] = []

    def candidates(self, hidden_NH: Rows, num_candidates: int) -> Candidates:
        self.asked.append((hidden_NH.shape[0], num_candidates))
        return super().candidates(hidden_NH, num_candidates)


def test_whoever_wants_many_candidates_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head finds few for the rows that want few; each row has what it would have alone."""
    monkeypatch.setattr(engine_columns, "_MAX_SURPLUS", 100)
    model = WideModel()
    oracle, columns = SlowOracle(model), make_columns(model)
    wanted = [5, 90, 1, 32, 33, 10]
    rows = [take(columns) for _ in wanted]
    for row in rows:
        columns.load(row, oracle.start())
    steps = [(row, row + 1, token, count) for token, (row, count) in enumerate(zip(rows, wanted, strict=True))]
    found = columns.run(model, advances(*steps))
    assert model.asked == [(4, 32), (2, 90)]
    for index, count in enumerate(wanted):
        after = oracle.feed(oracle.start(), [index])
        alone = model.candidates(after.hidden_H[None], count)
        assert found.ids_AK[index][:count] == alone.ids_NK[0].tolist()
        assert found.log_probs_AK[index][:count] == alone.log_probs_NK[0].tolist()
    assert found.is_finite_A == [True] * len(wanted)
    columns.run(model, advances(*steps[:2]))  # not worth asking twice
    columns.run(model, advances(*[step for step in steps if step[3] > 32], *steps[1:2] * 5))  # all want many
    assert model.asked[-2:] == [(2, 90), (7, 90)]


def test_candidates_are_as_many_as_the_greediest_wants() -> None:
    model = ToyModel()
    columns = make_columns(model)
    rows = [take(columns) for _ in range(2)]
    for row in rows:
        columns.load(row, SlowOracle(model).start())
    found = columns.run(model, advances((rows[0], rows[0] + 1, 1, 1), (rows[1], rows[1] + 1, 2, 7)))
    assert [len(ids) for ids in found.ids_AK] == [7, 7]


def test_slots_are_as_many_as_the_bytes_hold() -> None:
    """None is given twice, and what is given back can be had again."""
    model = ToyModel()
    slot_bytes = make_columns(model).slot_bytes
    assert slot_bytes == RING * (model.layout.num_bytes + 4 * model.hidden_size)
    columns = make_columns(model, 3 * slot_bytes + slot_bytes // 2)
    taken = [take(columns) for _ in range(3)]
    assert sorted(taken) == [0, RING, 2 * RING]
    assert columns.allocate_slot() is None
    assert (columns.num_used, repr(columns)) == (3, "Columns(3 of 3 slots used)")
    columns.free_slot(taken[1])
    assert columns.num_used == 2
    assert columns.allocate_slot() == taken[1]


def test_no_bytes_hold_no_slots() -> None:
    assert make_columns(ToyModel(), 0).allocate_slot() is None


def test_columns_are_cut_and_joined_as_a_whole() -> None:
    made = advances(*[(number, number + 1, number + 2, number + 3) for number in range(5)])
    rest = made.without_first(2)
    part = Advances()
    part.extend(made, 0, 2)
    part.extend(rest)
    for name in Advances.__slots__:
        assert getattr(part, name) == getattr(made, name)
    assert (len(made), len(rest), rest.rows) == (5, 3, [2, 3, 4])
