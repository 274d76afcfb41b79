"""Rows for a user to choose from."""

import math

import pytest

from carousel.cli.suggestions import Suggestion, choose_suggestions, follow_word, is_whole_word
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
    """They keep their white space, so that they can be distinguished."""
    rows = choose_suggestions(_words(), " ", 1)
    assert [(row.label, row.text) for row in rows] == [("' the'", " the")]


def test_letters_that_only_happen_to_fit_are_no_word() -> None:
    """The bound is a hundredth of the likeliest; but before a word is begun, unlikely words are words too."""
    found = (" of", 0.9), (" off", 0.0091), (" oference", 0.0089)
    assert [row.label for row in choose_suggestions(_words(*found), " of", 5)] == ["of", "off"]
    assert len(choose_suggestions(_words(*found), " ", 5)) == 3


@pytest.mark.parametrize(
    ("words", "prefix", "is_whole"),
    [
        (((" of", 0.5), (" off", 0.5)), " of", True),
        (((" of", 0.49), (" off", 0.51)), " of", False),
        (((" off", 0.9),), " of", False),
        (((" the", 0.9),), " ", False),
        ((), " of", False),
    ],
)
def test_a_word_is_whole_when_it_is_likely_itself(
    words: tuple[tuple[str, float], ...], prefix: str, is_whole: bool
) -> None:
    """The bound is half of the words with its letters; an empty prefix is not a word."""
    assert is_whole_word(choose_suggestions(_words(*words), prefix, 5), prefix) == is_whole


def test_a_word_that_follows_keeps_what_was_typed() -> None:
    """One space between them, in vocabularies of both kinds."""
    for prefix, text in ((" of", " the"), ("of", "the")):
        assert follow_word((Suggestion("the", text, 0.5),), prefix) == (Suggestion("the", f"{prefix} the", 0.5),)
