"""`carousel predict` without a terminal."""

import json

import pytest
from tests.server.cli.conftest import Fake, Run
from tests.server.cli.vocabularies import know_words
from tests.server.fake_sessions import Kept


def test_every_line_is_answered_by_likely_words(run: Run, fake: Fake) -> None:
    """Finished text is fed, the unfinished word is completed, each line on a separate sequence."""
    result = run("predict", "--words", "2", stdin=b"The ca\nIf \n")
    assert result.out == "caa 0.500\tcab 0.500\na 0.368\tb 0.368\n"
    assert [request.input.text for request in fake.service.requests] == ["The", "If"]
    assert [request.word_prefix for request in fake.service.requests] == [" ca", " "]


def test_json_lines_keep_the_text_beside_the_words(run: Run) -> None:
    """For a program to read."""
    [line] = run("predict", "--words", "1", "--json", stdin="né".encode()).out.splitlines()
    assert json.loads(line) == {"text": "né", "prefix": "né", "words": [{"text": "néa", "probability": 0.5}]}


def test_after_a_whole_word_the_next_ones_are_told(run: Run, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """They follow the line: their prefix is empty. The word is fed for that, on the same sequence."""
    know_words(monkeypatch, " of")
    assert run("predict", "--words", "1", stdin=b"The of\n").out == "a 0.368\n"
    [line] = run("predict", "--words", "1", "--json", stdin=b"The of\n").out.splitlines()
    assert json.loads(line) == {"text": "The of", "prefix": "", "words": [{"text": " a", "probability": 0.367879}]}
    asked = [(request.input.text, request.word_prefix) for request in fake.service.requests]
    assert asked == [("The", " of"), (" of", " ")] * 2


def test_a_session_is_asked_and_stays_as_it_is(run: Run, fake: Fake) -> None:
    """Each line continues from the session's position, on a fork that is deleted afterwards, also when the server
    fails."""
    fake.service.kept["mine"] = Kept(7)
    result = run("predict", "--words", "1", "--session", "mine", stdin=b"The ca\nIf \n")
    assert result.out == "caa 0.500\na 0.368\n"
    assert run("predict", "--session", "mine", stdin=b"bad x\n").code == 1
    assert fake.service.positions == {"mine": 7}
    ids = {request.session_id for request in fake.service.requests if hasattr(request, "word_prefix")}
    assert len(ids) == 3
    assert not ids & {"", "mine"}


def test_a_session_that_is_not_there_is_told_with_the_way_out(run: Run) -> None:
    """The hint is the same as in other commands."""
    result = run("predict", "--session", "other", stdin=b"The\n")
    assert result.err == "carousel: there is no session other (make it with: carousel sessions create other)\n"
