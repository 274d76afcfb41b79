"""Which part of an edited text the model reads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carousel.cli.draft import Draft


@pytest.mark.parametrize(
    ("text", "settled", "prefix"),
    [
        ("", "", ""),
        ("The", "", "The"),
        ("The ", "The", " "),
        ("The ca", "The", " ca"),
        ("The  ca", "The", "  ca"),
        ("The cat,", "The cat,", ""),
        ("The cat, an", "The cat,", " an"),
        ("3.14", "3.", "14"),
        ("don't", "", "don't"),
        ("The\n", "The\n", ""),
        ("The \n  ca", "The \n", "  ca"),
    ],
)
def test_a_space_belongs_to_the_word_after_it(text: str, settled: str, prefix: str) -> None:
    """Where tokens begin with spaces, the unfinished word includes its space; marks and line ends finish a word."""
    assert Draft(do_spaces_lead=True).split(text) == (settled, prefix)


@pytest.mark.parametrize(
    ("text", "settled", "prefix"),
    [("The ca", "The ", "ca"), ("The ", "The ", ""), ("e.g", "", "e.g"), ("The\nca", "The\n", "ca")],
)
def test_in_a_vocabulary_of_words_a_space_ends_the_word(text: str, settled: str, prefix: str) -> None:
    """Where tokens are whole words, only white space finishes one, and it is fed with it."""
    assert Draft(do_spaces_lead=False).split(text) == (settled, prefix)


def test_typing_on_feeds_only_what_is_new() -> None:
    """A word is fed once, when the next one begins."""
    draft = Draft(do_spaces_lead=True)
    steps = [draft.advance(text) for text in ("Th", "The", "The ", "The c", "The cat ")]
    assert [step.feed for step in steps] == ["", "", "The", "", " cat"]
    assert [step.word_prefix for step in steps] == ["Th", "The", " ", " c", " "]
    assert not any(step.is_restart for step in steps)


def test_deleting_fed_text_begins_again() -> None:
    """The model cannot unread: the remaining text is fed to a new sequence."""
    draft = Draft(do_spaces_lead=True)
    draft.advance("The cat sat ")
    step = draft.advance("The ca")
    assert (step.is_restart, step.feed, step.word_prefix) == (True, "The", " ca")
    assert not draft.advance("The car").is_restart


def test_deleting_within_the_unfinished_word_does_not() -> None:
    """It was never fed."""
    draft = Draft(do_spaces_lead=True)
    draft.advance("The cat")
    assert not draft.advance("The c").is_restart


def test_accepting_a_word_replaces_its_beginning() -> None:
    """The whole word stands there, and a space for the next."""
    assert Draft(do_spaces_lead=True).accept("The ca", " cat") == "The cat "
    assert Draft(do_spaces_lead=False).accept("The ca", "cat") == "The cat "


def test_a_prefix_longer_than_the_server_takes_is_not_asked_for() -> None:
    """There are no words then, rather than an error while typing."""
    draft = Draft(do_spaces_lead=True)
    assert draft.advance("x" * 64).word_prefix == "x" * 64
    assert draft.advance("é" * 33).word_prefix is None


@given(st.lists(st.text("ab .\n", max_size=12)), st.booleans())
def test_the_model_has_always_read_what_is_settled(texts: list[str], do_spaces_lead: bool) -> None:
    """For any order of edits, the text fed since the last restart, plus the prefix, is the text."""
    draft = Draft(do_spaces_lead=do_spaces_lead)
    read = ""
    for text in texts:
        step = draft.advance(text)
        read = step.feed if step.is_restart else read + step.feed
        assert step.word_prefix is not None
        assert read + step.word_prefix == text


@given(st.text("ab .,\n", max_size=30), st.booleans())
def test_typing_never_takes_back_what_was_fed(text: str, do_spaces_lead: bool) -> None:
    """Typed letter by letter to the end, no step restarts."""
    draft = Draft(do_spaces_lead=do_spaces_lead)
    assert not any(draft.advance(text[:end]).is_restart for end in range(len(text) + 1))
