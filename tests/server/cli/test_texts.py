"""Cutting and cleaning text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carousel.cli.texts import show, split_text


@given(st.text(), st.integers(4, 40))
def test_parts_are_the_whole_text_within_the_bound(text: str, max_bytes: int) -> None:
    """Nothing is lost or repeated, no part is empty, none is too long in UTF-8."""
    parts = list(split_text(text, max_bytes))
    assert "".join(parts) == text
    assert all(0 < len(part.encode()) <= max_bytes for part in parts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [("ab\ncd\nef", ["ab\ncd\n", "ef"]), ("ab cd ef", ["ab cd", " ef"]), ("abcdefgh", ["abcdefg", "h"])],
)
def test_cuts_fall_where_tokens_end(text: str, parts: list[str]) -> None:
    """A cut is after a line end if there is one, otherwise before a space, otherwise anywhere."""
    assert list(split_text(text, 7)) == parts


def test_shown_text_keeps_lines_and_letters() -> None:
    """Only control characters go."""
    assert show("né\t\x1b[0m\x9b\x00\n\x7f") == "né\t[0m\n"
