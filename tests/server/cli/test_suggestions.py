"""Rows for a user to choose from."""

import math

from carousel.cli.suggestions import choose_suggestions
from carousel.client import Candidate, Prediction, Word

_TOKENS = (Candidate(0, math.log(0.5), " the"), Candidate(1, math.log(0.25), "\n"))


def _words(*words: tuple[str, float]) -> Prediction:
    return Prediction(_TOKENS, tuple(Word(text, math.log(probability)) for text, probability in words), 0)


def test_probabilities_stand_as_they_are_before_a_word_is_begun() -> None:
    """With no letter typed, the server's probability is the next word's."""
    rows = choose_suggestions(_words((" the", 0.25), (" a", 0.125)), " ", 5)
    assert [(row.label, row.text, round(row.probability, 6)) for row in rows] == [
        ("the", " the", 0.25),
        ("a", " a", 0.125),
    ]


def test_a_begun_word_shares_among_the_words_that_begin_so() -> None:
    """Unlikely letters do not make all completions unlikely."""
    rows = choose_suggestions(_words((" cat", 0.003), (" car", 0.001)), " ca", 1)
    assert [(row.label, round(row.probability, 6)) for row in rows] == [("cat", 0.75)]


def test_a_word_is_shown_once() -> None:
    """With and without the space before it, the likelier one stays."""
    rows = choose_suggestions(_words((" the", 0.5), ("the", 0.25)), "", 5)
    assert [row.text for row in rows] == [" the"]


def test_tokens_stand_in_where_there_is_no_word() -> None:
    """White space and all, so that they can be told apart."""
    rows = choose_suggestions(_words(), " ", 1)
    assert [(row.label, row.text) for row in rows] == [("' the'", " the")]
