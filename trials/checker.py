"""Compares the clients' answers with what must be true. Pure."""

from collections import Counter
from collections.abc import Sequence

from trials.histories import History, Line, Listing, Turn

LIBRARY_KINDS = ("blocking", "asyncio")
_GONE = ("SESSION_EXPIRED", "SESSION_EVICTED", "SESSION_NOT_FOUND", "SESSION_DELETED")


def check(histories: Sequence[History], idle_seconds: float) -> Counter[str]:
    """Returns all counts by name, except `different`. A session that nobody served for `idle_seconds` expires by right:
    on an overloaded machine its client is starved, and nothing went wrong."""
    totals: Counter[str] = Counter()
    for history in histories:
        totals["retries"] += history.num_retries
        totals["turns"] += sum(len(line.turns) for line in history.lines)
        if history.is_starved(idle_seconds):
            totals["starved"] += 1
        else:
            totals["unfinished"] += bool(history.trouble)
            totals["library_unfinished"] += bool(history.trouble) and history.kind in LIBRARY_KINDS
            totals["ended_in_use"] += history.trouble_reason in _GONE
        for line in history.lines:
            totals += check_line(line)
        for listing in history.listings:
            totals += check_listing(listing)
    return totals


def check_line(line: Line) -> Counter[str]:
    """The turns must lie end to end from 0 to the final position; turns without an answer fill the gaps."""
    totals: Counter[str] = Counter()
    open_size = num_gaps = position = 0
    for turn in _in_order(line.turns):
        assert turn.position is not None
        start = turn.position - turn.wish.size
        totals["lost"] += start < position
        num_gaps += start > position
        open_size += max(0, start - position)
        position = max(position, turn.position)
    if line.final_position is not None:
        totals["lost"] += line.final_position < position
        num_gaps += line.final_position > position
        open_size += max(0, line.final_position - position)
        totals["lost"] += open_size < _size_without_answer(line)
    if open_size > _size_without_answer(line):
        totals["doubled"] += num_gaps
    return totals


def check_listing(listing: Listing) -> Counter[str]:
    """The list must hold exactly the sessions that were created and not deleted, each at its last position."""
    totals: Counter[str] = Counter()
    for name in listing.expected.keys() | listing.listed.keys():
        expected, listed = listing.expected.get(name, -1), listing.listed.get(name, -1)
        totals["lost"] += listed < expected
        totals["doubled"] += listed > expected
    return totals


def unbroken(line: Line) -> list[Turn]:
    """Returns the turns from the start that lie end to end: those that a quiet server can repeat."""
    position = 0
    turns: list[Turn] = []
    for turn in _in_order(line.turns):
        if turn.position != position + turn.wish.size:
            break
        position = turn.position
        turns.append(turn)
    return turns


def count_different(turns: Sequence[Turn], repeated: Sequence[Turn]) -> int:
    """Counts the turns whose answers differ from the quiet server's."""
    return sum(turn != other for turn, other in zip(turns, repeated, strict=True))


def _in_order(turns: Sequence[Turn]) -> list[Turn]:
    known = [turn for turn in turns if turn.position is not None]
    return sorted(known, key=lambda turn: turn.position or 0)


def _size_without_answer(line: Line) -> int:
    return sum(turn.wish.size for turn in line.turns if turn.position is None)
