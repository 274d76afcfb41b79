"""Turns of held sessions as entries in a store's log. Each turn is durable before its answer, and becomes part of its
session later, together with others.

An entry has the turns of one step: "CTL" | version u8, then for each turn a head of numbers and lengths, owner, session
id, request id, the snapshot after the turn, and the answer. All numbers are little-endian.
"""

import asyncio
import functools
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from carousel.errors import StoreInvalid
from carousel.sessions.resident import Found, LoggedTurn, Plain, Resident, Sink
from carousel.sessions.rounds import Rounds, tell
from carousel.state.store import LogStore

_MAGIC = b"CTL\x01"
_HEAD = struct.Struct("<qqIdiII4I")  # incarnation, revision, number, moment, token, candidates wanted, found, lengths
_CANDIDATE_BYTES = 4 + 8


class Drafted(NamedTuple):
    """A turn that the engine has run. It happens only when it is in the log."""

    resident: Resident
    plain: Plain
    found: Found
    sink: Sink


class TurnLog:
    """Writes the turns of one round of the event loop as one entry. Calls `logged` for each turn in the log, with its
    time, and `refused` for each turn that is not. A turn is written even if its caller has gone."""

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
        """Waits until no turn of the resident is on its way to the log: the entry's revision and number must stay
        true."""
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
                one.resident.is_logging = False
                tell(partial(self._refused, one, error))
            self._wake()

    def _tell(self, drafted: Sequence[Drafted], now: float) -> None:
        for one in drafted:
            one.resident.is_logging = False
            tell(partial(self._logged, one, now))
        self._wake()

    def _wake(self) -> None:
        told, self._told = self._told, None
        if told is not None:
            told.set_result(None)


def _sketch(one: Drafted, now: float) -> LoggedTurn:
    one.resident.is_logging = True
    return one.resident.sketch(one.plain, one.found, now)


def write_entry(turns: Sequence[LoggedTurn]) -> bytes:
    """Returns the turns as bytes, for `read_entry`."""
    parts = [_MAGIC]
    for turn in turns:
        plain, count = turn.plain, len(turn.ids)
        texts = (turn.owner.encode(), turn.session_id.encode(), plain.request_id.encode(), turn.snapshot)
        numbers = (turn.incarnation, turn.revision, turn.number, turn.at, plain.token_id, plain.num_candidates)
        parts.append(_HEAD.pack(*numbers, count, *map(len, texts)))
        parts.extend(texts)
        parts.append(_candidates(count).pack(*turn.ids, *turn.log_probabilities))
    return b"".join(parts)


def read_entry(entry: bytes) -> Iterator[LoggedTurn]:
    """Yields an entry's turns. Raises StoreInvalid for bytes that are no entry."""
    if not entry.startswith(_MAGIC):
        raise StoreInvalid("the log of turns has an entry that this server cannot read")
    at = len(_MAGIC)
    try:
        while at < len(entry):
            turn, at = _read_turn(entry, at)
            yield turn
    except (struct.error, UnicodeDecodeError) as error:
        raise StoreInvalid(f"the log of turns is damaged: {error}") from error


def _read_turn(entry: bytes, at: int) -> tuple[LoggedTurn, int]:
    """Returns the turn at `at` and where the next one begins. Raises struct.error if the entry ends too early."""
    incarnation, revision, number, moment, token_id, num_candidates, count, *lengths = _HEAD.unpack_from(entry, at)
    at += _HEAD.size
    texts = []
    for length in lengths:
        texts.append(entry[at : at + length])
        at += length
    owner, session_id, request_id, snapshot = texts
    if at + _CANDIDATE_BYTES * count > len(entry):
        raise struct.error("an entry is cut off")
    values = _candidates(count).unpack_from(entry, at)
    plain = Plain(token_id, num_candidates, request_id.decode())
    turn = LoggedTurn(
        owner.decode(),
        session_id.decode(),
        incarnation,
        revision,
        number,
        moment,
        snapshot,
        plain,
        values[:count],
        values[count:],
    )
    return turn, at + _CANDIDATE_BYTES * count


@functools.cache
def _candidates(count: int) -> struct.Struct:
    """Returns the layout of the candidates' ids and log-probabilities."""
    return struct.Struct(f"<{count}i{count}d")
