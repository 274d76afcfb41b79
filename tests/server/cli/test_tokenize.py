"""`carousel tokenize` prints tokens."""

import json

from tests.server.cli.conftest import Run


def test_tokens_are_printed_one_on_each_line(run: Run) -> None:
    """A line has id and text, with visible white space."""
    assert run("tokenize", "a\n").out == "97\t'a'\n10\t'\\n'\n"


def test_text_comes_from_standard_input_too(run: Run) -> None:
    """`-` reads it; the output may be JSON lines."""
    lines = run("tokenize", "-", "--json", stdin=b"ab").out.splitlines()
    assert [json.loads(line) for line in lines] == [{"id": 97, "text": "a"}, {"id": 98, "text": "b"}]
