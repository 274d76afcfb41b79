"""Finds what a text repeats of another one verbatim, and leaves it out, so that a held-out text is not known already.

Legend: N characters, W windows of `MATCH` characters.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MATCH = 50
PASSAGE = 1000  # longer lines are taken in pieces
HASH_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no power of it vanishes modulo 2^64
Hashes = npt.NDArray[np.uint64]


def window_hashes(text: str, length: int = MATCH) -> Hashes:
    """hashes_W of all windows of `length` characters, by a polynomial modulo 2^64."""
    codes_N = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    num_windows = max(len(codes_N) - length + 1, 0)
    hashes_W = np.zeros(num_windows, dtype=np.uint64)
    for offset in range(length):
        hashes_W *= HASH_BASE
        hashes_W += codes_N[offset : offset + num_windows] + np.uint64(1)
    return hashes_W


def known_hashes(texts: Sequence[str], length: int = MATCH) -> Hashes:
    """hashes_W of all the texts' windows, sorted."""
    return np.sort(np.concatenate([window_hashes(text, length) for text in texts]))


def repeated(text: str, known_W: Hashes, length: int = MATCH) -> npt.NDArray[np.bool_]:
    """is_repeated_N: the characters of `text` that lie in `length` or more characters that the known texts hold."""
    hashes_W = window_hashes(text, length)
    starts = np.zeros(len(text) + 1, dtype=np.int64)
    found = np.flatnonzero(_is_in(hashes_W, known_W))
    np.add.at(starts, found, 1)
    np.add.at(starts, found + length, -1)
    return np.cumsum(starts[:-1]) > 0


def share_repeated(text: str, known_W: Hashes) -> float:
    return float(repeated(text, known_W).mean()) if text else 0.0


def drop_repeats(text: str, known_W: Hashes) -> str:
    """Without the passages that repeat, until none does: what then stands together may repeat in its turn."""
    while text:
        is_repeated_N = repeated(text, known_W)
        if not is_repeated_N.any():
            break
        kept, start = list[str](), 0
        for passage in passages(text):
            end = start + len(passage)
            if not is_repeated_N[start:end].any():
                kept.append(passage)
            start = end
        text = "".join(kept)
    return text


def drop_doubles(text: str) -> str:
    """Each passage of MATCH or more characters only where it stands first; shorter ones make up no match alone."""
    seen, kept = set[str](), list[str]()
    for passage in passages(text):
        if len(passage) < MATCH or passage not in seen:
            kept.append(passage)
            seen.add(passage)
    return "".join(kept)


def passages(text: str) -> list[str]:
    """Lines with their ends, in pieces of PASSAGE characters at the most."""
    lines = text.splitlines(keepends=True)
    return [line[start : start + PASSAGE] for line in lines for start in range(0, len(line), PASSAGE)]


def _is_in(hashes_W: Hashes, known_W: Hashes) -> npt.NDArray[np.bool_]:
    if not len(known_W):
        return np.zeros(len(hashes_W), dtype=np.bool_)
    order_W = np.argsort(hashes_W)  # neighbours look at neighbouring places, which a cache holds
    places_W = np.searchsorted(known_W, hashes_W[order_W])
    is_in_W = np.empty(len(hashes_W), dtype=np.bool_)
    is_in_W[order_W] = known_W[np.minimum(places_W, len(known_W) - 1)] == hashes_W[order_W]
    return is_in_W
