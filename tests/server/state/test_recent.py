"""A bounded memory of what was used last."""

from carousel.state.recent import Recent


def test_the_least_recently_used_goes_first() -> None:
    """Beyond the bound of bytes, the least recently used item is dropped; a get is a use."""
    recent: Recent[str] = Recent(100)
    for name in "abc":
        recent.put(name, name.upper(), 30)
    assert recent.get("a") == "A"
    recent.put("d", "D", 30)
    assert [recent.get(name) for name in "abcd"] == ["A", None, "C", "D"]


def test_a_new_item_replaces_the_old_one() -> None:
    """A new item replaces the old one and its weight, so nothing leaks; a second drop does nothing."""
    recent: Recent[str] = Recent(100)
    for _ in range(10):
        recent.put("a", "A", 60)
    recent.put("b", "B", 40)
    assert (recent.get("a"), recent.get("b")) == ("A", "B")
    recent.drop("a")
    recent.drop("a")
    assert repr(recent) == "Recent(1 items, 40 of 100 bytes)"
    recent.clear()
    assert recent.get("b") is None


def test_what_is_too_large_is_not_kept() -> None:
    """An item above the bound leaves nothing behind."""
    recent: Recent[str] = Recent(100)
    recent.put("a", "A", 101)
    assert repr(recent) == "Recent(0 items, 0 of 100 bytes)"


def test_equal_ids_of_two_owners_are_two_items() -> None:
    """Equal ids of two owners are two items, whatever the key is made of."""
    recent: Recent[str] = Recent(100)
    recent.put(("ann", "s"), "A", 40)
    recent.put(("bob", "s"), "B", 40)
    recent.drop(("ann", "s"))
    assert (recent.get(("ann", "s")), recent.get(("bob", "s"))) == (None, "B")
