"""One owner's sessions are in order of creation and by last use."""

from hypothesis import given, settings
from hypothesis import strategies as some

from carousel.state import shelf as shelves
from carousel.state.shelf import KEY, Shelf, make_entry, parts_of, row_of, weigh, weigh_parts
from carousel.state.store import Row

CREATED = some.integers(0, 5)
STEPS = some.lists(some.tuples(some.integers(0, 40), CREATED, some.integers(0, 9)), max_size=120)


def _row(session_id: str, created_at: float) -> Row:
    return Row(session_id, "ann", 7, 3, 11, created_at, created_at + 1, created_at + 2)


@settings(max_examples=200, deadline=None)
@given(STEPS, some.sampled_from([2, 4, 512]))
def test_any_changes_leave_all_in_order(steps: list[tuple[int, int, int]], page: int) -> None:
    """The order is a sorted list's, from any key on, with pages of any size."""
    before, shelves._PAGE = shelves._PAGE, page
    try:
        shelf, known = Shelf(), dict[str, tuple[float, str]]()
        for number, created_at, after in steps:
            name = str(number)
            if name in known:
                assert shelf.remove(name)[KEY] == known.pop(name)
                shelf = shelf if known else Shelf()
            else:
                key = known[name] = (float(created_at), name)
                shelf.add(make_entry(_row(name, key[0]), key, {}))
            for start in ((0.0, ""), (after / 2, "2"), (after / 2, name)) if known else ():
                assert list(shelf.walk_after(start)) == [key[1] for key in sorted(known.values()) if key > start]
        assert set(shelf.entries) == set(known)
    finally:
        shelves._PAGE = before


def test_an_entry_is_a_row_and_its_parts() -> None:
    """Nothing is lost, and the entry weighs as much as its parts and a row."""
    row, parts = _row("s", 5.25), {"a": b"12345", "b": b""}
    entry = make_entry(row, (5.25, "s"), parts)
    assert row_of("ann", entry) == row
    assert parts_of(entry) == parts
    assert weigh(entry) == weigh_parts(parts) == weigh_parts({}) + 5


def test_no_page_is_long() -> None:
    """However the sessions come, removing one moves few keys."""
    shelf = Shelf()
    for number in range(3_000):
        created_at = float(number if number % 3 else -number)
        shelf.add(make_entry(_row(str(number), created_at), (created_at, str(number)), {}))
    assert shelf._pages is not None
    assert max(map(len, shelf._pages)) <= shelves._PAGE
