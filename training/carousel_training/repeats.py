"""How much of a text has been read before: stretches that stand word for word in another text, or earlier in the same.

A validation text that repeats the training text measures memory. Stretches are compared by 64-bit hashes of all windows
of `length` characters, a window at each place. Legend: N characters, M windows.
"""

import numpy as np
import numpy.typing as npt

LENGTH = 50  # characters; what two texts share by chance is shorter
MAX_MEASURED = 1 << 22  # characters of a text that is measured, and of a piece that it is measured against
TABLE_BITS = 26
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing

Hashes = npt.NDArray[np.uint64]
Marks = npt.NDArray[np.bool_]


def share_repeated(known: str, text: str, length: int = LENGTH) -> float:
    """The share of the text's characters that lie in a stretch of `length` or more which also stands in `known`; of a
    long text the first four million."""
    text = text[:MAX_MEASURED]
    hashes_M = _hash_windows(text, length)
    is_in_table = np.zeros(1 << TABLE_BITS, np.bool_)  # leaves out nearly all that is not in the text, without a sort
    is_in_table[_cells(hashes_M)] = True
    found = []
    for start in range(0, len(known), MAX_MEASURED):
        known_M = _hash_windows(known[start : start + MAX_MEASURED + length - 1], length)
        found.append(known_M[is_in_table[_cells(known_M)]])
    is_known_M = np.isin(hashes_M, np.concatenate(found)) if found else np.zeros(len(hashes_M), np.bool_)
    return float(_cover(is_known_M, len(text), length).mean()) if text else 0.0


def drop_repeats(text: str, length: int = LENGTH) -> str:
    """The text without the lines that repeat: those of which more than half stands earlier in it, in stretches of
    `length` or more. Lines keep their order and their ends."""
    is_repeated_N = _mark_repeats(text, length)
    kept, start = [], 0
    for line in text.splitlines(keepends=True):
        if is_repeated_N[start : start + len(line)].sum() * 2 <= len(line):
            kept.append(line)
        start += len(line)
    return "".join(kept)


def _mark_repeats(text: str, length: int) -> Marks:
    """Which characters lie in a window that has stood earlier."""
    hashes_M = _hash_windows(text, length)
    is_again_M = np.ones(len(hashes_M), np.bool_)
    is_again_M[np.unique(hashes_M, return_index=True)[1]] = False
    return _cover(is_again_M, len(text), length)


def _cover(is_marked_M: Marks, num_characters: int, length: int) -> Marks:
    """Which characters lie in a marked window."""
    edges = np.zeros(num_characters + 1, np.int64)
    (starts,) = np.nonzero(is_marked_M)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + length, -1)
    return np.asarray(edges.cumsum()[:-1] > 0)


def _hash_windows(text: str, length: int) -> Hashes:
    """A hash of each window: of two neighbouring windows, made from theirs, doubled until the length is reached."""
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
    """Of a window and the one that begins `distance` later."""
    later_M = right_M[distance:]
    mixed_M = (left_M[: len(later_M)] * FACTOR) ^ (left_M[: len(later_M)] >> np.uint64(29))
    return np.asarray((mixed_M + later_M) * FACTOR)
