"""The demo's last act shows what it says: a stream as it comes, a slip that stands out, equal answers."""

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples.carried_state import show_stream, show_surprise, tell
from rich.console import Console
from tests.bundles import write_bundle

from carousel.client import Finished, Piece, ScoredToken, Session

_ROOT = Path(__file__).parents[2]


def _console(*, is_terminal: bool = False) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(
        file=out, force_terminal=is_terminal, color_system="standard" if is_terminal else None, width=80
    ), out


def test_every_piece_is_shown_before_the_next_one_is_asked_for() -> None:
    """The pieces stream: nothing is gathered first."""
    console, out = _console()

    def pieces() -> Iterator[Piece]:
        for number in range(3):
            assert out.getvalue() == "Once" + "".join(f" {shown}" for shown in range(number))
            yield Piece(f" {number}", (), None)
        yield Piece("", (), Finished("length", "", 3, 1, 5, 7))

    show_stream(console, "Once", pieces())
    assert out.getvalue().startswith("Once 0 1 2\n5 tokens in 3 messages, the first after ")


def test_a_slip_stands_out() -> None:
    """The text is whole and coloured by rank; the slip is also named, for readers without colours."""
    tokens = [ScoredToken(number, -1.0, rank, rank == 1, text) for number, (text, rank) in enumerate(_RANKS)]
    console, out = _console()
    show_surprise(console, tokens)
    assert out.getvalue() == "The dauhgter went\nexpected least: ' dau', of rank 1,781 among the model's choices\n"
    console, out = _console(is_terminal=True)
    show_surprise(console, tokens)
    coloured = out.getvalue().splitlines()[0]
    assert coloured.startswith("The\x1b[")
    assert coloured.endswith("m went")


_RANKS = [("The", 1), (" dau", 1781), ("hgter", 20), (" went", 10)]


def test_nothing_to_rate_is_nothing_to_show() -> None:
    """A text without tokens shows nothing."""
    console, out = _console()
    show_surprise(console, [])
    assert out.getvalue() == "\n"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundle")
    write_bundle(directory)
    return directory


def test_it_runs_on_a_bundle(bundle: Path) -> None:
    """It starts a server and stops it: exit code 0, with ids and verdict on one line each."""
    command = [sys.executable, str(_ROOT / "examples" / "carried_state.py"), str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    [verdict] = [number for number, line in enumerate(lines) if line.startswith("equal: 3 requests")]
    assert lines[verdict + 1].startswith("ids ")
    assert lines[verdict + 2] == ""
    assert f"carousel serve {bundle}" in done.stdout


def test_an_answer_that_differs_is_seen() -> None:
    """The ids and the position that the server reports are compared."""

    class Told(Session):
        def __init__(self, position: int) -> None:
            self._told = position
            self.fed: list[str] = []

        def feed(self, prompt, **options):  # type: ignore[no-untyped-def]
            self.fed.append(prompt)
            return 0

        def generate(self, prompt="", **options):  # type: ignore[no-untyped-def]
            self.fed.append(prompt)
            return iter([Piece("", (), Finished("length", "", self._told, 1, 0, 7))])

    one, other = Told(3), Told(4)
    assert tell(one, ("a", "b", "c")) == ([], 3)
    assert one.fed == ["a", "b", "c"]
    assert tell(other, ("abc",)) == ([], 4)
