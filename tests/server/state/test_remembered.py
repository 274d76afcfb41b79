"""What is remembered of owners, within bounds."""

from carousel.state.remembered import Remembered


def test_the_oldest_is_forgotten_first() -> None:
    """Beyond an owner's bound its own oldest goes, beyond the common bound that of the owner with the most; an item put
    again is new."""
    remembered: Remembered[int] = Remembered(max_per_owner=3, max_in_all=5)
    for number in range(3):
        remembered.put("ann", f"a{number}", number)
    remembered.put("ann", "a0", 10)
    remembered.put("ann", "a3", 3)
    assert remembered.items() == [2, 10, 3]
    for number in range(3):
        remembered.put("bob", f"b{number}", 20 + number)
    assert remembered.items() == [10, 3, 20, 21, 22]
    assert (remembered.oldest(), len(remembered)) == (10, 5)
    assert (remembered.get("ann", "a0"), remembered.get("bob", "a0")) == (10, None)


def test_an_owner_of_whom_nothing_is_remembered_costs_nothing() -> None:
    """What is forgotten twice is forgotten once."""
    remembered: Remembered[int] = Remembered(max_per_owner=3, max_in_all=5)
    for number in range(100):
        remembered.put(f"owner {number}", "x", number)
    assert repr(remembered) == "Remembered(5 items of 5 owners)"
    for number in range(100):
        remembered.forget(f"owner {number}", "x")
        remembered.forget(f"owner {number}", "x")
    assert repr(remembered) == "Remembered(0 items of 0 owners)"
    assert remembered.oldest() is None


def test_nobody_pushes_out_what_is_remembered_of_others() -> None:
    """However many owners create many items, an owner with fewer keeps its own."""
    remembered: Remembered[int] = Remembered(max_per_owner=30, max_in_all=50)
    remembered.put("ann", "first", 1)
    for number in range(200):
        remembered.put(f"owner {number % 5}", f"{number}", number)
        assert remembered.get("ann", "first") == 1
    assert len(remembered) == 50
