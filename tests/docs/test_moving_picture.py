"""The README's moving picture is there, small and harmless; the terminal and the drawing behind it are right."""

import random
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tools.moving_picture import Frame, draw
from tools.recording import NUM_COLUMNS, PICTURE, make_frames, press, record
from tools.terminal import CURSOR_QUESTION, Cell, Screen, Terminal

_ROOT = Path(__file__).parents[2]
_SVG = "{http://www.w3.org/2000/svg}"


def _screen(*lines: str) -> Screen:
    """What a terminal of two rows and ten columns shows after these lines."""
    terminal = Terminal(2, 10)
    terminal.feed("\r\n".join(lines))
    return terminal.screen()


def test_the_readme_shows_a_picture_that_moves() -> None:
    """The README links it; it stays below 1 MB and has frames."""
    assert f"]({PICTURE})" in (_ROOT / "README.md").read_text()
    assert (_ROOT / PICTURE).stat().st_size < 1_000_000
    assert (_ROOT / PICTURE).read_text().count("@keyframes") > 20


@pytest.mark.parametrize("picture", sorted((_ROOT / "docs" / "images").glob("*.svg")), ids=lambda path: path.name)
def test_pictures_run_no_script_and_load_nothing(picture: Path) -> None:
    """Every SVG is well formed. It has no script, no handler, no foreign content, and links to itself alone."""
    for element in ElementTree.parse(picture).iter():
        assert element.tag not in (f"{_SVG}script", f"{_SVG}foreignObject", f"{_SVG}image")
        assert not [name for name in element.attrib if name.startswith("on")]
        assert all(value.startswith("#") for name, value in element.attrib.items() if name.endswith("href"))
    assert not re.search(r"@import|javascript:|url\((?!#)", picture.read_text())


def test_a_terminal_shows_what_is_written() -> None:
    """Text, styles, moves of the cursor and erasing end where a terminal has them."""
    terminal = Terminal(3, 10)
    terminal.feed("\x1b[?25l\x1b[0;1;36mab\x1b[0mcdef\r\nnext\x1b[A\x1b[2D\x1b[K\x1b[?7h")
    assert terminal.screen().lines() == ["ab", "next", ""]
    assert terminal.screen().rows[0][:3] == (Cell("a", "cyan", True), Cell("b", "cyan", True), Cell())
    assert terminal.screen().cursor is None
    terminal.feed("\x1b[?25h\r\x1b[J")
    assert (terminal.screen().lines(), terminal.screen().cursor) == (["", "", ""], (0, 0))


def test_a_terminal_scrolls_and_waits_for_the_rest_of_a_sequence() -> None:
    """A line feed on the last row moves all rows up. A sequence may come in two parts."""
    terminal = Terminal(2, 10)
    terminal.feed("one\r\ntwo\r\nthree\x1b[")
    terminal.feed("3D!")
    assert terminal.screen().lines() == ["two", "th!ee"]
    assert terminal.cursor_report() == "\x1b[2;4R"


@pytest.mark.parametrize("unknown", ["\x1b[5X", "\x1b[1;48m", "\x1b]0;title", "\x07"])
def test_a_terminal_refuses_what_it_does_not_know(unknown: str) -> None:
    """A picture of a wrong screen would be worse than none."""
    with pytest.raises(ValueError, match=r"teach tools/terminal\.py"):
        Terminal(2, 10).feed(unknown)


def test_a_screen_that_is_gone_at_once_is_not_drawn() -> None:
    """Half a screen goes into the next one's time, equal ones become one, and the last one stays as long as told."""
    moments = [(0.0, _screen("a")), (1.0, _screen("half")), (1.01, _screen("b")), (2.0, _screen("b"))]
    frames = make_frames(moments, 3.0)
    assert [frame.screen.lines()[0] for frame in frames] == ["a", "b"]
    assert [frame.seconds for frame in frames] == pytest.approx([1.0, 4.0])


def test_each_screen_is_drawn_for_its_time() -> None:
    """Rows are drawn once and used by the screens that show them; what the terminal shows is escaped. The
    fullest screen is the one that may stand still."""
    frames = [Frame(_screen("a<b", "same"), 1.0), Frame(_screen("c█", "same"), 3.0)]
    svg = draw(frames, "a title")
    texts = [element.text for element in ElementTree.fromstring(svg).iter(f"{_SVG}text")]
    assert [text for text in texts if text and text.strip() == "same"] == [texts[2]]
    assert "@keyframes s0 { 0.000% { visibility: visible; } 25.000% { visibility: hidden; } }" in svg
    assert "@keyframes s1 { 0% { visibility: hidden; } 25.000% { visibility: visible; } }" in svg
    assert "animation: 4s step-end infinite" in svg
    assert re.findall(r'class="(screen.*?)" style="animation-name: (s\d)"', svg) == [
        ("screen", "s0"),
        ("screen still", "s1"),
    ]


def test_a_program_is_recorded_while_keys_are_pressed() -> None:
    """The program sees a terminal of the picture's size, its question is answered, and every screen has its time."""
    program = (
        "import os, sys, tty; tty.setcbreak(0); "
        f"print(os.get_terminal_size().columns, end={CURSOR_QUESTION!r}, flush=True); "
        "reply = os.read(0, 9); print('', *reply[2:-1], end='', flush=True); "
        "[print('', key, end='', flush=True) for key in iter(lambda: sys.stdin.read(1), '\\x04')]"
    )
    moments = record([sys.executable, "-c", program], press(["xy"], random.Random(1)))
    columns = len(str(NUM_COLUMNS)) + 1
    asked = f"{NUM_COLUMNS} {' '.join(str(ord(letter)) for letter in f'1;{columns}')}"
    assert [moment[1].lines()[0] for moment in moments][-2:] == [f"{asked} x", f"{asked} x y"]
    assert [at for at, _ in moments] == sorted(at for at, _ in moments)
