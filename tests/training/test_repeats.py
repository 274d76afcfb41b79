"""Repeats are found at every position, exact to the character, and dropped by whole lines."""

import random
import string

import pytest

from carousel_training import repeats
from carousel_training.repeats import MAX_LINE, drop_known, drop_repeats, share_repeated


def letters(num_characters: int, seed: int) -> str:
    return "".join(random.Random(seed).choices(string.ascii_lowercase, k=num_characters))


def share_by_hand(known: str, text: str, length: int) -> float:
    windows = {known[start : start + length] for start in range(len(known) - length + 1)}
    covered = set()
    for start in range(len(text) - length + 1):
        if text[start : start + length] in windows:
            covered |= set(range(start, start + length))
    return len(covered) / len(text)


@pytest.mark.parametrize("length", [1, 2, 7, 8, 50])
def test_the_share_is_that_of_a_plain_search(length: int) -> None:
    """Stretches at the start, in the middle and at the end, some a character too short, in texts of few letters."""
    for seed in range(5):
        known = "".join(random.Random(seed).choices("abc", k=400)) + letters(300, seed)
        text = known[40:95] + letters(60, seed + 100) + known[:49] + "Z" + known[350:] + "é𝕏" + known[-50:]
        assert share_repeated(known, text, length) == pytest.approx(share_by_hand(known, text, length))


def test_long_texts_are_searched_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stretch across two pieces is found, and only the start of a long text is measured."""
    monkeypatch.setattr(repeats, "MAX_MEASURED", 100)
    known = letters(1000, 1)
    for start in (0, 51, 99, 150, 940):
        assert share_repeated(known, known[start : start + 60]) == 1.0
    assert share_repeated(known, letters(100, 2) + known) == 0.0


@pytest.mark.parametrize("text", ["", "short", "a" * 49])
def test_nothing_short_repeats(text: str) -> None:
    """A text shorter than a window, or an empty one, has no repeats."""
    assert share_repeated(text, text) == 0.0
    assert share_repeated(text, "long enough, but not in there; " * 3) == 0.0
    assert drop_repeats(text) == text


def test_lines_that_stood_before_are_dropped() -> None:
    """The first of equal lines stays where it is, and so do lines of which less than half repeats; the empty line goes
    with the one that it follows."""
    one, two, three = (letters(80, seed) + "\n" for seed in range(3))
    partly = one[:30] + letters(60, 9) + "\n"
    assert drop_repeats(one + "\n" + two + one + "\n" + partly + three + two) == one + "\n" + two + partly + three
    assert drop_repeats(one + two[:-1]) == one + two[:-1]


def test_lines_that_another_text_holds_are_dropped() -> None:
    """A line is dropped if fifty of its characters are known, and not for forty-nine."""
    known, free = letters(300, 1), letters(80, 2) + "\n"
    for copied, is_dropped in ((49, False), (50, True)):
        line = "X" * 10 + known[100 : 100 + copied] + "Y" * 10 + "\n"
        assert drop_known(free + line + free, known) == (free + free if is_dropped else free + line + free)
    assert drop_known("", known) == ""


def test_nothing_is_known_afterwards() -> None:
    """Two halves of a known stretch on both sides of a dropped line are dropped too."""
    halves, between = (letters(30, 1) + "\n", letters(40, 2) + "\n"), letters(70, 3) + "\n"
    text = "free\n" + halves[0] + between + halves[1] + "also free\n"
    assert drop_known(text, halves[0] + halves[1] + "#" + between) == "free\nalso free\n"


def test_a_long_line_goes_in_pieces() -> None:
    """A known stretch in a long line drops only its piece."""
    text, known = letters(3 * MAX_LINE, 4), letters(60, 5)
    assert drop_known(text[:MAX_LINE] + known + text[MAX_LINE + 60 :], known) == text[:MAX_LINE] + text[2 * MAX_LINE :]
