"""Draws screens of a terminal, one after the other, as an SVG that moves by CSS alone and needs no script.

Where the reader asks for less motion, or the viewer knows no animations, the fullest screen stands still.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from xml.sax.saxutils import escape

from tools.terminal import Cell, Row, Screen

_COLUMN, _LINE, _FONT = 9.6, 22, 16
_MARGIN, _BAR = 20, 40
_BLOCK = "█"
_COLOURS = {"cyan": "#56b6c2", "bright-black": "#8b949e"}
_STYLE = """\
text { font: %dpx ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #e6edf3;
  white-space: pre; }
.b { font-weight: bold; }
.screen { visibility: hidden; animation: %gs step-end infinite; }
.still { visibility: visible; }
"""


@dataclass(frozen=True, slots=True)
class Frame:
    """A screen, and for how many seconds it stays."""

    screen: Screen
    seconds: float


def draw(frames: Sequence[Frame], title: str) -> str:
    """The whole SVG. Each row that occurs is drawn once, and used wherever it stands."""
    first = frames[0].screen
    width = 2 * _MARGIN + round(len(first.rows[0]) * _COLUMN)
    height = _BAR + _MARGIN + len(first.rows) * _LINE
    still = max((frame.screen for frame in frames), key=_fullness)
    rows = {row: f"r{number}" for number, row in enumerate(dict.fromkeys(_drawn_rows(frames)))}
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(title)}">',
        f"<style>\n{_STYLE % (_FONT, sum(frame.seconds for frame in frames))}{_keyframes(frames)}</style>",
        *_draw_window(width, height, title),
        "<defs>",
        *(f'<g id="{name}">{"".join(_draw_row(row))}</g>' for row, name in rows.items()),
        "</defs>",
        *(line for number, frame in enumerate(frames) for line in _draw_screen(number, frame.screen, still, rows)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _fullness(screen: Screen) -> tuple[int, int]:
    """How many lines are written, then how long the longest bar is."""
    lines = screen.lines()
    return sum(map(bool, lines)), max(line.count(_BLOCK) for line in lines)


def _drawn_rows(frames: Sequence[Frame]) -> Iterator[Row]:
    return (row for frame in frames for row in frame.screen.rows if any(cell.character != " " for cell in row))


def _keyframes(frames: Sequence[Frame]) -> str:
    """For each frame the share of the time in which it is seen."""
    total = sum(frame.seconds for frame in frames)
    lines, begin = [], 0.0
    for number, frame in enumerate(frames):
        end = begin + frame.seconds
        before = "0% { visibility: hidden; } " if number else ""
        after = f" {100 * end / total:.3f}% {{ visibility: hidden; }}" if number + 1 < len(frames) else ""
        seen = f"{100 * begin / total:.3f}% {{ visibility: visible; }}"
        lines.append(f"@keyframes s{number} {{ {before}{seen}{after} }}\n")
        begin = end
    lines.append("@media (prefers-reduced-motion: reduce) { .screen { animation: none; } }\n")
    return "".join(lines)


def _draw_window(width: int, height: int, title: str) -> Iterator[str]:
    """A dark window with a border of its own, so that it is read on a light page and on a dark one."""
    yield f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8" fill="#161b22" stroke="#6e7681"/>'
    for number, colour in enumerate(("#ff5f57", "#febc2e", "#28c840")):
        yield f'<circle cx="{_MARGIN + 2 + 20 * number}" cy="{_BAR // 2}" r="6" fill="{colour}"/>'
    yield f'<text x="{width / 2:g}" y="{_BAR // 2 + 5}" text-anchor="middle" class="b">{escape(title)}</text>'


def _draw_screen(number: int, screen: Screen, still: Screen, rows: dict[Row, str]) -> Iterator[str]:
    kind = "screen still" if screen is still else "screen"
    yield f'<g class="{kind}" style="animation-name: s{number}">'
    for line, row in enumerate(screen.rows):
        if row in rows:
            yield f'<use href="#{rows[row]}" x="{_MARGIN}" y="{_BAR + line * _LINE}"/>'
    if screen.cursor is not None:
        line, column = screen.cursor
        x, y = _MARGIN + column * _COLUMN, _BAR + line * _LINE + 2
        yield f'<rect x="{x:.1f}" y="{y}" width="{_COLUMN}" height="{_LINE - 4}" fill="#e6edf3" opacity="0.6"/>'
    yield "</g>"


def _draw_row(row: Row) -> Iterator[str]:
    """One element for each run of cells in one style. Blocks are rectangles: in many fonts they do not touch."""
    column = 0
    for (colour, is_bold, is_block), run in groupby(row, key=_style):
        text = "".join(cell.character for cell in run)
        x, length, fill = column * _COLUMN, len(text) * _COLUMN, _COLOURS.get(colour, "")
        column += len(text)
        if is_block:
            yield f'<rect x="{x:.1f}" y="3" width="{length:.1f}" height="{_LINE - 6}" fill="{fill or "#e6edf3"}"/>'
        elif text.strip():
            style = (f' style="fill: {fill}"' if fill else "") + (' class="b"' if is_bold else "")
            yield f'<text x="{x:.1f}" y="16" textLength="{length:.1f}"{style}>{escape(text)}</text>'


def _style(cell: Cell) -> tuple[str, bool, bool]:
    return cell.colour, cell.is_bold, cell.character == _BLOCK
