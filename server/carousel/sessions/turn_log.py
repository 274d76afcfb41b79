"""Turns of held sessions as entries of a store's log, so that each is durable before it is answered and becomes the
session's parts later, with others.

An entry has the turns of one step: "CTL" | version u8, then for each turn a head of numbers and lengths, owner, session
id, request id, the snapshot after it, and the record of its answer. All numbers are little-endian.
"""

import asyncio
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from carousel.errors import StoreInvalid
from carousel.sessions.resident import Found, LoggedTurn, Plain, Resident, Sink
from carousel.sessions.rounds import Rounds
from carousel.state.store import LogStore

_MAGIC = b"CTL\x01"
_HEAD = struct.Struct("<qqIdIIIII")  # incarnation, revision, number, moment, five lengths


class Drafted(NamedTuple):
    """A turn that the engine has run, and that has not happened before it is in the log."""

    resident: Resident
    plain: Plain
    found: Found
    sink: Sink


class TurnLog:
    """Turns of one round of the event loop are an entry. `logged` is told of each that is in the log, and when it was;
    `refused` of each that is not. A turn is written although whoever asked has gone."""

    def __init__(
        self,
        store: LogStore,
        clock: Callable[[], float],
        logged: Callable[[Drafted, float], None],
        refused: Callable[[Drafted, Exception], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._logged = logged
        self._refused = refused
        self._rounds = Rounds(self._write, "turn-log")
        self._told: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"TurnLog({self._rounds!r})"

    def add(self, drafted: Drafted) -> None:
        self._rounds.add(drafted)

    async def until_told(self, resident: Resident) -> None:
        """Until none of its turns is on its way to the log: what such a one says of its session must stay true."""
        while resident.is_logging:
            if self._told is None:
                self._told = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._told)

    async def _write(self, drafted: Sequence[Drafted]) -> None:
        now = self._clock()
        try:
            entry = write_entry([_sketch(one, now) for one in drafted])
            await self._store.append(entry, partial(self._tell, drafted, now))
        except Exception as error:
            for one in drafted:
                self._refuse(one, error)
            self._wake()

    def _tell(self, drafted: Sequence[Drafted], now: float) -> None:
        for one in drafted:
            one.resident.is_logging = False
            try:
                self._logged(one, now)
            except Exception as error:  # a defect of ours; the others shall have their answers
                self._refuse(one, error)
        self._wake()

    def _refuse(self, one: Drafted, error: Exception) -> None:
        one.resident.is_logging = False
        self._refused(one, error)

    def _wake(self) -> None:
        told, self._told = self._told, None
        if told is not None:
            told.set_result(None)


def _sketch(one: Drafted, now: float) -> LoggedTurn:
    one.resident.is_logging = True
    return one.resident.sketch(one.plain, one.found, now)


def write_entry(turns: Sequence[LoggedTurn]) -> bytes:
    """The opposite of `read_entry`."""
    parts = [_MAGIC]
    for turn in turns:
        owner, session_id, request_id = turn.owner.encode(), turn.session_id.encode(), turn.request_id.encode()
        texts = (owner, session_id, request_id, turn.snapshot, turn.answer)
        parts.append(_HEAD.pack(turn.incarnation, turn.revision, turn.number, turn.at, *map(len, texts)))
        parts.extend(texts)
    return b"".join(parts)


def read_entry(entry: bytes) -> Iterator[LoggedTurn]:
    """Raises StoreInvalid for what is none."""
    if not entry.startswith(_MAGIC):
        raise StoreInvalid("the log of turns has an entry that this server cannot read")
    at = len(_MAGIC)
    try:
        while at < len(entry):
            incarnation, revision, number, moment, *lengths = _HEAD.unpack_from(entry, at)
            at += _HEAD.size
            texts = []
            for length in lengths:
                texts.append(entry[at : at + length])
                at += length
            owner, session_id, request_id, snapshot, answer = texts
            names = (owner.decode(), session_id.decode(), request_id.decode())
            if at > len(entry):
                raise StoreInvalid("the log of turns has an entry that is cut off")
            yield LoggedTurn(*names, snapshot, answer, incarnation, revision, number, moment)
    except (struct.error, UnicodeDecodeError) as error:
        raise StoreInvalid(f"the log of turns is damaged: {error}") from error
