"""`carousel predict` without a terminal."""

import json

from tests.server.cli.conftest import Fake, Run


def test_every_line_is_answered_by_likely_words(run: Run, fake: Fake) -> None:
    """Settled text is fed, the unfinished word is completed, each line on a sequence of its own."""
    result = run("predict", "--words", "2", stdin=b"The ca\nIf \n")
    assert result.out == "caa 0.500\tcab 0.500\na 0.368\tb 0.368\n"
    assert [request.input.text for request in fake.service.requests] == ["The", "If"]
    assert [request.word_prefix for request in fake.service.requests] == [" ca", " "]


def test_json_lines_keep_the_text_beside_the_words(run: Run) -> None:
    """For a program to read."""
    [line] = run("predict", "--words", "1", "--json", stdin="né".encode()).out.splitlines()
    assert json.loads(line) == {"text": "né", "words": [{"text": "néa", "probability": 0.5}]}
