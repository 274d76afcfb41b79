"""Which connection a call takes."""

import pytest

from carousel.client.core.spread import Spread


def test_a_name_has_its_connection() -> None:
    """Every client chooses the same one, and many names use all."""
    names = [f"session-{number}" for number in range(100)]
    chosen = [Spread(4).choose(name) for name in names]
    assert chosen == [Spread(4).choose(name) for name in names]
    assert set(chosen) == {0, 1, 2, 3}


@pytest.mark.parametrize("name", ["", "\ud800", "é", "x" * 10_000])
def test_any_name_has_one(name: str) -> None:
    """The server refuses those that are none."""
    assert Spread(1).choose(name) == 0
    assert 0 <= Spread(3).choose(name) < 3


def test_a_made_name_leads_where_it_shall() -> None:
    """Numbers beyond the last connection begin again."""
    spread = Spread(3)
    assert [spread.choose(spread.make_name(number)) for number in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert spread.make_name(1) != spread.make_name(1)
