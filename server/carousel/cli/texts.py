"""Text in and out of a command: files and standard input, exact and in UTF-8; and what is safe for a terminal."""

import io
import sys
from collections.abc import Iterator

from carousel.errors import CarouselError

STANDARD_INPUT = "-"
_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def read_lines(path: str) -> Iterator[str]:
    """Yields lines of the file, or of standard input for `-`, with their line ends unchanged. Raises CarouselError when
    unreadable."""
    try:
        if path == STANDARD_INPUT:
            yield from io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", newline="")
        else:
            with open(path, encoding="utf-8", newline="") as file:
                yield from file
    except UnicodeDecodeError as error:
        raise CarouselError(f"{path} is not UTF-8: {error.reason}") from error
    except OSError as error:
        raise CarouselError(f"{path}: {error.strerror}") from error


def read_text(path: str) -> str:
    return "".join(read_lines(path))


def show(text: str) -> str:
    """Returns `text` without control characters, which could control a terminal; line ends and tabs stay."""
    return text.translate(_CONTROLS)


def split_text(text: str, max_bytes: int) -> Iterator[str]:
    """Yields parts of at most `max_bytes` in UTF-8, cut after a line end, else before a space, else anywhere."""
    start = 0
    while start < len(text):
        part = text[start : start + max_bytes].encode()[:max_bytes].decode(errors="ignore")
        if start + len(part) < len(text):
            cut = part.rfind("\n") + 1 or max(part.rfind(" "), 0) or len(part)
            part = part[:cut]
        yield part
        start += len(part)
