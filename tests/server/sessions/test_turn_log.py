"""Turns as entries of a log are read as they were written, and refused where anything is missing."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from carousel.errors import StoreInvalid, StoreUnavailable
from carousel.sessions.resident import LoggedTurn, Plain
from carousel.sessions.turn_log import Drafted, TurnLog, read_entry, write_entry

NUMBERS, COUNTS = some.integers(-(2**63), 2**63 - 1), some.integers(0, 2**32 - 1)
IDS = some.integers(-(2**31), 2**31 - 1)


@some.composite
def turns(draw: some.DrawFn) -> LoggedTurn:
    found = draw(some.lists(some.tuples(IDS, some.floats(allow_nan=False)), max_size=12))
    return LoggedTurn(
        draw(some.text(max_size=5)),
        draw(some.text(max_size=5)),
        draw(NUMBERS),
        draw(NUMBERS),
        draw(COUNTS),
        draw(some.floats(allow_nan=False)),
        draw(some.binary(max_size=40)),
        Plain(draw(IDS), draw(COUNTS), draw(some.text(max_size=5))),
        tuple(one for one, _ in found),
        tuple(value for _, value in found),
    )


@settings(derandomize=True, database=None, deadline=None)
@given(some.lists(turns(), max_size=4))
def test_an_entry_is_read_as_it_was_written(written: list[LoggedTurn]) -> None:
    assert list(read_entry(write_entry(written))) == written


@settings(derandomize=True, database=None, deadline=None)
@given(some.lists(turns(), min_size=1, max_size=2), some.data())
def test_what_is_cut_off_is_refused(written: list[LoggedTurn], data: some.DataObject) -> None:
    """An entry that is cut off is refused, unless the cut is at the end of a turn."""
    entry = write_entry(written)
    length = data.draw(some.integers(0, len(entry) - 1))
    if length in (4, len(write_entry(written[:1]))):
        assert list(read_entry(entry[:length])) == written[: length > 4]
    else:
        with pytest.raises(StoreInvalid):
            list(read_entry(entry[:length]))


@settings(derandomize=True, database=None, deadline=None)
@given(some.binary(max_size=200))
def test_nothing_else_is_read(content: bytes) -> None:
    """Any other bytes are read as turns or refused."""
    for entry in (content, b"CTL\x01" + content):
        try:
            list(read_entry(entry))
        except StoreInvalid:
            continue
        assert entry.startswith(b"CTL\x01")


class FullDisk:
    async def append(self, entry: bytes, then: Callable[[], None]) -> None:
        raise StoreUnavailable("the disk is full")


class SketchedResident:
    is_logging = False

    def sketch(self, plain: Plain, found: Any, now: float) -> LoggedTurn:
        return LoggedTurn("ann", "s", 1, 1, 1, now, b"", plain, (), ())


async def test_a_turn_that_cannot_be_written_is_not_on_its_way_any_more() -> None:
    """A caller that waits until its session's turns are told goes on, and so does a later one."""
    resident, refused = SketchedResident(), list[Exception]()
    log = TurnLog(FullDisk(), lambda: 0.0, _never_logged, lambda _, error: refused.append(error))  # type: ignore[arg-type]
    log.add(Drafted(resident, Plain(1, 1), ((), (), True), None))  # type: ignore[arg-type]
    async with asyncio.timeout(5):
        while not refused:
            await log.until_told(resident)  # type: ignore[arg-type]
            await asyncio.sleep(0)
        await log.until_told(resident)  # type: ignore[arg-type]
    assert not resident.is_logging
    assert [type(error) for error in refused] == [StoreUnavailable]


def _never_logged(drafted: Drafted, now: float) -> None:
    raise AssertionError(drafted)
