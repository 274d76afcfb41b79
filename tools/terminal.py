"""A small terminal: it reads what a program writes to one, and knows what stands on the screen then.

It knows the sequences that `carousel predict` writes, and refuses others, so that no picture shows a wrong screen.
"""

import re
from dataclasses import dataclass, replace

CURSOR_QUESTION = "\x1b[6n"

_PIECE = re.compile(r"\x1b\[(?P<private>\??)(?P<numbers>[\d;]*)(?P<letter>[A-Za-z])|(?P<plain>[^\x1b])", re.DOTALL)
_BROKEN_OFF = re.compile(r"\x1b(\[\??[\d;]*)?$")
_NAMES = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
_COLOURS = {30 + number: name for number, name in enumerate(_NAMES)}
_COLOURS |= {90 + number: f"bright-{name}" for number, name in enumerate(_NAMES)} | {39: ""}


@dataclass(frozen=True, slots=True)
class Cell:
    """One character on the screen, with the name of its colour; an empty name is the terminal's own colour."""

    character: str = " "
    colour: str = ""
    is_bold: bool = False


Row = tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Screen:
    """What a terminal shows at one moment. `cursor` is its row and column, or None where it is hidden."""

    rows: tuple[Row, ...]
    cursor: tuple[int, int] | None

    def lines(self) -> list[str]:
        return ["".join(cell.character for cell in row).rstrip() for row in self.rows]


class Terminal:
    """A terminal of fixed size. `feed` takes text as it comes, also with a sequence that is broken off at its end."""

    def __init__(self, num_rows: int, num_columns: int) -> None:
        self._num_columns = num_columns
        self._rows = [[Cell()] * num_columns for _ in range(num_rows)]
        self._row = self._column = 0
        self._pen = Cell()
        self._is_cursor_shown = True
        self._unread = ""

    def feed(self, text: str) -> None:
        """Raises ValueError for a sequence that this terminal does not know."""
        text = self._unread + text
        broken_off = _BROKEN_OFF.search(text)
        self._unread = broken_off[0] if broken_off else ""
        whole = text.removesuffix(self._unread)
        at = 0
        while at < len(whole):
            piece = _PIECE.match(whole, at)
            if piece is None:
                raise ValueError(f"unknown sequence {whole[at : at + 8]!r}: teach tools/terminal.py what it does")
            self._take(piece)
            at = piece.end()

    def screen(self) -> Screen:
        cursor = (self._row, min(self._column, self._num_columns - 1)) if self._is_cursor_shown else None
        return Screen(tuple(map(tuple, self._rows)), cursor)

    def cursor_report(self) -> str:
        """The answer to `CURSOR_QUESTION`."""
        return f"\x1b[{self._row + 1};{self._column + 1}R"

    def _take(self, piece: re.Match[str]) -> None:
        if piece["plain"] is not None:
            self._write(piece["plain"])
        elif piece["private"]:
            if piece["numbers"] == "25":
                self._is_cursor_shown = piece["letter"] == "h"
        else:
            self._control(piece["letter"], [int(number or 0) for number in piece["numbers"].split(";")])

    def _write(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._go_down()
        elif character == "\b":
            self._column = max(0, self._column - 1)
        elif character < " ":
            raise ValueError(f"unknown character {character!r}: teach tools/terminal.py what it does")
        elif self._column < self._num_columns:
            self._rows[self._row][self._column] = replace(self._pen, character=character)
            self._column += 1

    def _go_down(self) -> None:
        if self._row + 1 < len(self._rows):
            self._row += 1
        else:
            self._rows = [*self._rows[1:], [Cell()] * self._num_columns]

    def _control(self, letter: str, numbers: list[int]) -> None:
        distance = max(1, numbers[0])
        match letter:
            case "A":
                self._row = max(0, self._row - distance)
            case "B":
                self._row = min(len(self._rows) - 1, self._row + distance)
            case "C":
                self._column = min(self._num_columns - 1, self._column + distance)
            case "D":
                self._column = max(0, self._column - distance)
            case "J" | "K" if numbers == [0]:
                self._erase(to_the_end_of_the_screen=letter == "J")
            case "m":
                self._set_pen(numbers)
            case "n" if numbers == [6]:
                pass  # whoever feeds answers it
            case _:
                raise ValueError(f"unknown sequence ESC[{numbers}{letter}: teach tools/terminal.py what it does")

    def _erase(self, *, to_the_end_of_the_screen: bool) -> None:
        self._rows[self._row][self._column :] = [Cell()] * (self._num_columns - self._column)
        if to_the_end_of_the_screen:
            for row in range(self._row + 1, len(self._rows)):
                self._rows[row] = [Cell()] * self._num_columns

    def _set_pen(self, numbers: list[int]) -> None:
        for number in numbers:
            if number == 0:
                self._pen = Cell()
            elif number == 1:
                self._pen = replace(self._pen, is_bold=True)
            elif number in _COLOURS:
                self._pen = replace(self._pen, colour=_COLOURS[number])
            else:
                raise ValueError(f"unknown style {number}: teach tools/terminal.py what it does")
