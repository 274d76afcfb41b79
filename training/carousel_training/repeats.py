"""Finds stretches of a text that stand word for word in another text, or earlier in the same text.

A validation text that repeats the training text measures memory. Stretches are compared by 64-bit hashes of all windows
of `length` characters, one window at each place. Legend: N characters, M windows.
"""

import numpy as np
import numpy.typing as npt

LENGTH = 50  # characters; chance matches between two texts are shorter
MAX_MEASURED = 1 << 22  # characters of a measured text, and of each piece it is compared with
MAX_LINE = 1000
TABLE_BITS = 26
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing

Hashes = npt.NDArray[np.uint64]
Marks = npt.NDArray[np.bool_]


def share_repeated(known: str, text: str, length: int = LENGTH) -> float:
    """Returns the share of the text's characters in stretches of `length` or more that also stand in `known`.

    Measures the first four million characters of a long text.
    """
    text = text[:MAX_MEASURED]
    return float(_mark_known(known, text, length).mean()) if text else 0.0


def drop_known(text: str, known: str, length: int = LENGTH) -> str:
    """Removes the lines that contain a part of such a stretch, until there are none.

    Removing lines brings others together, which may repeat in turn. Lines of more than MAX_LINE characters are treated
    in pieces.
    """
    while (is_known_N := _mark_known(known, text, length)).any():
        kept, start = [], 0
        for line in _short_lines(text):
            if not is_known_N[start : start + len(line)].any():
                kept.append(line)
            start += len(line)
        text = "".join(kept)
    return text


def _short_lines(text: str) -> list[str]:
    lines = text.splitlines(keepends=True)
    return [line[start : start + MAX_LINE] for line in lines for start in range(0, len(line), MAX_LINE)]


def _mark_known(known: str, text: str, length: int) -> Marks:
    """Marks the characters of the text in a window that stands in `known`, which is searched piece by piece."""
    hashes_M = _hash_windows(text, length)
    is_in_table = np.zeros(1 << TABLE_BITS, np.bool_)  # filters most foreign hashes without a sort
    is_in_table[_cells(hashes_M)] = True
    found = []
    for start in range(0, len(known), MAX_MEASURED):
        known_M = _hash_windows(known[start : start + MAX_MEASURED + length - 1], length)
        found.append(known_M[is_in_table[_cells(known_M)]])
    is_known_M = np.isin(hashes_M, np.concatenate(found)) if found else np.zeros(len(hashes_M), np.bool_)
    return _cover(is_known_M, len(text), length)


def drop_repeats(text: str, length: int = LENGTH) -> str:
    """Removes the lines of which more than half stands earlier in the text, in stretches of `length` or more.

    The other lines keep their order and their ends.
    """
    is_repeated_N = _mark_repeats(text, length)
    kept, start = [], 0
    for line in text.splitlines(keepends=True):
        if is_repeated_N[start : start + len(line)].sum() * 2 <= len(line):
            kept.append(line)
        start += len(line)
    return "".join(kept)


def _mark_repeats(text: str, length: int) -> Marks:
    """Marks the characters in a window that stands earlier."""
    hashes_M = _hash_windows(text, length)
    is_again_M = np.ones(len(hashes_M), np.bool_)
    is_again_M[np.unique(hashes_M, return_index=True)[1]] = False
    return _cover(is_again_M, len(text), length)


def _cover(is_marked_M: Marks, num_characters: int, length: int) -> Marks:
    """Marks the characters in a marked window."""
    edges = np.zeros(num_characters + 1, np.int64)
    (starts,) = np.nonzero(is_marked_M)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + length, -1)
    return np.asarray(edges.cumsum()[:-1] > 0)


def _hash_windows(text: str, length: int) -> Hashes:
    """Hashes each window: joins the hashes of two neighbouring windows, doubling the width up to the length."""
    if len(text) < length:
        return np.empty(0, np.uint64)
    part_M = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    found_M, reached, width = part_M, 0, 1
    while True:
        if length & width:
            found_M = _join(found_M, part_M, reached) if reached else part_M
            reached += width
        if reached == length:
            return found_M[: len(text) - length + 1]
        part_M = _join(part_M, part_M, width)
        width *= 2


def _cells(hashes_M: Hashes) -> Hashes:
    return hashes_M >> np.uint64(64 - TABLE_BITS)


def _join(left_M: Hashes, right_M: Hashes, distance: int) -> Hashes:
    """Joins the hashes of a window and the window that begins `distance` later."""
    later_M = right_M[distance:]
    mixed_M = (left_M[: len(later_M)] * FACTOR) ^ (left_M[: len(later_M)] >> np.uint64(29))
    return np.asarray((mixed_M + later_M) * FACTOR)
