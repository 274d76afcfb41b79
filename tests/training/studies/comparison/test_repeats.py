"""What a text repeats is found to the character, and left out until nothing repeats."""

import random

import numpy as np

from carousel_training.studies.comparison.repeats import (
    MATCH,
    PASSAGE,
    drop_doubles,
    drop_repeats,
    known_hashes,
    passages,
    repeated,
    share_repeated,
    window_hashes,
)


def make_text(num_characters: int, seed: int) -> str:
    """Letters without a pattern, in lines of various lengths."""
    return "".join(random.Random(seed).choices("abcdefghij \n", k=num_characters))


def test_repeated_characters_are_those_of_naive_search() -> None:
    """Copied pieces of 4 to 12 characters of another text, matches of 6: the same as comparing all windows."""
    known, chance, length = make_text(300, 1), random.Random(2), 6
    pieces = [known[start : start + chance.randint(4, 12)] for start in chance.sample(range(280), 12)]
    text = "".join(piece + make_text(7, number) for number, piece in enumerate(pieces))
    expected = np.zeros(len(text), dtype=np.bool_)
    for start in range(len(text) - length + 1):
        if text[start : start + length] in known:
            expected[start : start + length] = True
    assert 0 < expected.sum() < len(text)
    assert (repeated(text, known_hashes([known], length), length) == expected).all()


def test_forty_nine_characters_are_no_match() -> None:
    """Fifty are."""
    known = make_text(500, 3).replace("\n", " ")
    for copied, is_match in ((MATCH - 1, False), (MATCH, True)):
        text = "X" * 10 + known[100 : 100 + copied] + "Y" * 10
        assert repeated(text, known_hashes([known])).any() == is_match
    assert share_repeated("X" * 50 + known[100:150], known_hashes([known])) == 0.5


def test_nothing_repeats_afterwards() -> None:
    """Not even across the join of what is left, where a repeat may be made by leaving out what stood between."""
    first, second = "a" * 30 + "bcd", "efgh" * 8
    known = first + second + "\n"
    text = f"{first}" + "\n" + "k" * 60 + "\n" + make_text(200, 4)
    known_W = known_hashes([known, "k" * 60])
    left = drop_repeats(text, known_W)
    assert not repeated(left, known_W).any()
    assert "k" not in left
    assert left.endswith(make_text(200, 4)[-40:])


def test_a_join_that_repeats_is_left_out_as_well() -> None:
    """Two halves of a known passage with a repeated line between them: all three go."""
    known = "x" * 10 + "0123456789" * 2 + "\n" + "9876543210" * 4 + "\n"
    halves = known.splitlines(keepends=True)
    between = "q" * 70 + "\n"
    left = drop_repeats("free\n" + halves[0] + between + halves[1] + "also free\n", known_hashes([known, between]))
    assert left == "free\nalso free\n"


def test_doubles_stay_once() -> None:
    """Where they stood first; short ones stay everywhere."""
    long_line, short_line = "l" * MATCH + "\n", "s\n"
    assert drop_doubles(long_line + short_line + long_line + short_line) == long_line + short_line + short_line


def test_a_text_without_line_ends_has_passages_too() -> None:
    """Put together they are the text."""
    text = make_text(3 * PASSAGE, 5).replace("\n", " ") + "\nend"
    pieces = passages(text)
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= PASSAGE


def test_short_texts_have_no_windows() -> None:
    """Nor do they repeat anything."""
    assert len(window_hashes("a" * (MATCH - 1))) == 0
    assert not repeated("short", known_hashes(["a" * 100])).any()
    assert not repeated("a" * 100, known_hashes(["short"])).any()
    assert share_repeated("", known_hashes(["a" * 100])) == 0.0
