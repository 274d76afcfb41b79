"""How much each owner uses, and who uses most."""

import time
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from carousel.shares import Shares

OWNERS = "abcdef"
CHANGES = some.lists(some.tuples(some.sampled_from(OWNERS), some.integers(-9, 9), some.integers(0, 12)), max_size=300)


@settings(max_examples=300, deadline=None)
@given(CHANGES)
def test_the_largest_is_right_after_any_changes(changes: list[tuple[str, int, int]]) -> None:
    """A plain dictionary gives the same totals, the largest owner, and the owners above a share, of all and of the
    accepted."""
    shares, used = Shares(), dict.fromkeys(OWNERS, 0)
    for owner, amount, above in changes:
        amount = max(amount, -used[owner])
        shares.change(owner, amount)
        used[owner] += amount
        present = {one: amount for one, amount in used.items() if amount}
        assert (shares.total, shares.num_owners) == (sum(used.values()), len(present))
        assert shares.used(owner) == used[owner]
        largest = shares.largest()
        assert present.get(largest or "") == max(present.values(), default=None)
        asked: list[str] = []
        assert shares.largest(above, partial(_refuse, asked)) is None
        assert [used[one] for one in asked] == sorted((n for n in present.values() if n > above), reverse=True)
        assert len(set(asked)) == len(asked)
        found = shares.largest(above, lambda one: one in "bdf")
        assert used.get(found or "") == max(
            (n for one, n in present.items() if one in "bdf" and n > above), default=None
        )


def test_a_share_is_that_of_the_owners_present() -> None:
    """The asking owner counts as present; one alone has all."""
    shares = Shares()
    assert shares.share(12, "a") == 12
    shares.change("a", 5)
    assert (shares.share(12, "a"), shares.share(12, "b")) == (12, 6)
    shares.change("b", 1)
    assert (shares.share(12, "a"), shares.share(12, "c")) == (6, 4)
    shares.change("a", -5)
    assert shares.share(12, "b") == 12
    assert repr(shares) == "Shares(1 used by 1 owners)"


def test_more_than_is_used_is_not_given_back() -> None:
    """It would be a mistake of ours that makes all later totals wrong."""
    shares = Shares()
    shares.change("a", 2)
    with pytest.raises(AssertionError, match="gives back 3"):
        shares.change("a", -3)
    assert (shares.total, shares.used("a")) == (2, 2)


def test_nothing_is_left_of_owners_that_use_nothing() -> None:
    """However many come and go, only present owners take room."""
    shares = Shares()
    for number in range(10_000):
        shares.change(f"owner {number}", 1 + number % 7)
        shares.change(f"owner {number - 3}", -shares.used(f"owner {number - 3}"))
        assert len(shares._heap) <= 100
    assert shares.num_owners == 3
    for _ in range(1_000):
        shares.change("same", 1)
        shares.largest()
        shares.change("same", -1)
        assert len(shares._heap) <= 100


def test_those_above_a_share_are_named_the_largest_first() -> None:
    """An owner at exactly the share is not among them."""
    shares = Shares()
    for owner, amount in (("a", 2), ("b", 5), ("c", 3), ("d", 4)):
        shares.change(owner, amount)
    assert shares.above(3) == ["b", "d"]


def test_among_equals_it_is_who_was_not_touched_for_longest() -> None:
    """The names do not matter; an owner that uses more comes first all the same, and a touch of an unknown owner does
    nothing."""
    shares = Shares()
    for owner in "cba":
        shares.change(owner, 2)
    shares.touch("nobody")
    assert shares.largest() == "c"
    shares.touch("c")
    assert shares.largest() == "b"
    shares.change("c", 1)
    assert shares.largest() == "c"
    shares.change("c", -1)
    assert shares.largest() == "b"
    assert shares.largest(accept=lambda owner: owner != "b") == "a"
    assert shares.largest(accept="c".__eq__) == "c"
    assert shares.num_owners == 3


def test_many_that_were_touched_are_not_all_looked_at() -> None:
    """Of 100,000 equal owners that were all active, one is named as quickly as of a few."""
    shares = Shares()
    for number in range(100_000):
        shares.change(f"owner {number}", 1)
    for number in range(100_000):
        shares.touch(f"owner {number}")
    started = time.thread_time()  # processor time, which a busy machine does not lengthen
    assert shares.largest() is not None
    assert time.thread_time() - started < 0.01


def _refuse(asked: list[str], owner: str) -> bool:
    asked.append(owner)
    return False
