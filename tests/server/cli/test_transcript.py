"""A terminal shows a generation with its prompt, speed and seed; a pipe gets the bare text."""

import re
from collections.abc import Iterable, Iterator

import pytest
from tests.server.cli.conftest import Fake
from tests.server.cli.terminals import Shown, run_on_terminal

from carousel.cli.transcript import Transcript
from carousel.client import Finished, GeneratedToken, Piece


class Clock:
    """Returns the given times, one after another."""

    def __init__(self, *times: float) -> None:
        self._times = list(times)

    def __call__(self) -> float:
        return self._times.pop(0)


def _piece(text: str, *, is_last: bool = False, branch: int = 0, num_tokens: int | None = None) -> Piece:
    tokens = (GeneratedToken(1, None, ()),) * (len(text) if num_tokens is None else num_tokens)
    finished = Finished("length", "", 9, 2, 3, seed=40 + branch) if is_last else None
    return Piece(text, tokens, finished, branch)


def _write(pieces: Iterable[Piece], *times: float, prompt: str = "The ", is_terminal: bool = True) -> None:
    transcript = Transcript(is_terminal=is_terminal, clock=Clock(*times))
    with transcript.around(prompt):
        for piece in pieces:
            transcript.count(piece)
            transcript.write(piece.text)


@pytest.fixture(autouse=True)
def _without_styles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")


def test_the_pace_counts_from_the_call_to_the_last_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    """Two tokens after a quarter of a second, three more within another one: ten a second, whenever it ends."""
    _write([_piece("ab"), _piece("cde"), _piece("", is_last=True)], 10.0, 10.25, 10.5)
    assert capsys.readouterr().out == "The abcde\n5 tokens in 0.50 s, 10 tokens/s, seed 40\n"


def test_a_short_text_is_told_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    """One token; tokens that took no measured time; and no figures where nothing was generated."""
    _write([_piece("a", is_last=True)], 10.0, 10.5)
    assert capsys.readouterr().out == "The a\n1 token in 0.50 s, 2 tokens/s, seed 40\n"
    _write([_piece("a", is_last=True)], 10.0, 10.0)
    assert capsys.readouterr().out.startswith("The a\n1 token in 0.00 s")
    _write([_piece("", is_last=True)], 10.0)
    assert capsys.readouterr().out == "The \n"


def test_the_first_branch_names_the_seed(capsys: pytest.CaptureFixture[str]) -> None:
    """With it, all branches can be reproduced."""
    _write([_piece("a", is_last=True, branch=1), _piece("b", is_last=True)], 1.0, 1.0, 1.0)
    assert capsys.readouterr().out.endswith("seed 40\n")


def test_an_interrupted_text_leaves_the_cursor_at_a_lines_start(capsys: pytest.CaptureFixture[str]) -> None:
    """There are no figures, because there is no end."""

    def interrupt() -> Iterator[Piece]:
        yield _piece("a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _write(interrupt(), 1.0, 1.0)
    assert capsys.readouterr().out == "The a\n"


def test_a_pipe_gets_the_text_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """The text is unchanged, including control characters."""
    _write([_piece("a\x1b"), _piece("", is_last=True)], 1.0, 1.0, is_terminal=False)
    assert capsys.readouterr().out == "a\x1b"


def test_a_text_drives_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """This holds for the model's text and for the prompt."""
    _write([_piece("\x1b[2Ja", num_tokens=1), _piece("", is_last=True)], 1.0, 2.0, prompt="\x07The ")
    assert capsys.readouterr().out == "The [2Ja\n1 token in 1.00 s, 1 tokens/s, seed 40\n"


def _generate(fake: Fake, *arguments: str, is_output_piped: bool = False, **environ: str) -> Shown:
    return run_on_terminal(
        "generate", *arguments, environ={"CAROUSEL_ADDRESS": fake.address, **environ}, is_output_piped=is_output_piped
    )


def test_a_terminal_shows_prompt_text_and_figures(fake: Fake) -> None:
    """In this order, the figures on a line of their own."""
    shown = _generate(fake, "a", "--seed", "7")
    assert shown.code == 0
    assert re.fullmatch(r"abcd\n3 tokens in [\d.]+ s, [\d,]+ tokens/s, seed 7\n", shown.text)


def test_several_texts_stand_under_headings_on_a_terminal(fake: Fake) -> None:
    """The prompt once, the figures of all once."""
    shown = _generate(fake, "a", "--n", "2", "--seed", "7")
    assert re.fullmatch(
        r"a\n--- 1 of 2\nbcd\n--- 2 of 2\ncde\n6 tokens in [\d.]+ s, [\d,]+ tokens/s, seed 7\n", shown.text
    )


def test_ids_and_json_on_a_terminal(fake: Fake) -> None:
    """Ids are shown as text is; JSON lines are JSON lines everywhere."""
    assert re.fullmatch(
        r"1 2 3 4 5 \n3 tokens in [\d.]+ s, [\d,]+ tokens/s, seed 0\n", _generate(fake, "1 2", "--ids").text
    )
    assert all(line.startswith("{") for line in _generate(fake, "a", "--json").text.splitlines())


def test_neither_prompt_nor_figures_reach_a_pipe(fake: Fake) -> None:
    """This holds even where errors go to a terminal, which stays empty."""
    shown = _generate(fake, "a", is_output_piped=True)
    assert (shown.code, shown.piped, shown.screen) == (0, b"bcd", "")


def test_styles_are_left_out_where_they_are_not_wanted(fake: Fake) -> None:
    """NO_COLOR and a terminal without styles turn them off."""
    assert "\x1b[" in _generate(fake, "a", NO_COLOR="", TERM="xterm").screen
    assert "\x1b[" not in _generate(fake, "a", NO_COLOR="1", TERM="xterm").screen
    assert "\x1b[" not in _generate(fake, "a", NO_COLOR="", TERM="dumb").screen
