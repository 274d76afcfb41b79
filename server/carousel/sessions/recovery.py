"""Recovery after a crash: the turns in the store's log become part of their sessions before anything else happens."""

import struct
from collections.abc import Iterable, Mapping, Sequence

from carousel.errors import StoreInvalid
from carousel.sessions.answers import write_plain_record
from carousel.sessions.ledger import Ledger
from carousel.sessions.order import Key
from carousel.sessions.resident import LoggedTurn
from carousel.sessions.turn_log import read_entry
from carousel.state.codec import SnapshotCodec
from carousel.state.store import Change, Held, LaterStore, SessionStore


async def recover(store: SessionStore, ledger: Ledger, now: float) -> None:
    """Recovers the turns after the store's start. Raises StoreInvalid for a damaged log, or StoreUnavailable."""
    if not isinstance(store, LaterStore):
        return
    later = store

    async def replay(entries: Sequence[bytes]) -> None:
        for key, turns in _by_session(entries).items():
            held = await later.reclaim(*key)  # its row may be due although its turns are younger
            if isinstance(held, Held):
                _note(later, ledger, held, turns, now)
                await later.release(held)

    await later.recover(replay)


def _by_session(entries: Iterable[bytes]) -> Mapping[Key, Sequence[LoggedTurn]]:
    """Returns each session's turns in order. A turn whose write failed may still be in the log: the next turn of its
    number replaces it."""
    found = dict[Key, list[LoggedTurn]]()
    for entry in entries:
        for turn in read_entry(entry):
            turns = found.setdefault((turn.owner, turn.session_id), [])
            while turns and (turns[-1].incarnation, turns[-1].revision) == (turn.incarnation, turn.revision):
                if turns[-1].number < turn.number:
                    break
                turns.pop()
            turns.append(turn)
    return found


def _note(store: LaterStore, ledger: Ledger, held: Held, turns: Iterable[LoggedTurn], now: float) -> None:
    """Applies the turns that continue from the session's current state. Each note in between raised the revision by
    one. It awaits nothing, so that one write has all of the turns or none."""
    revision, number = held.row.revision, 0
    for turn in turns:
        if turn.incarnation != held.row.incarnation or turn.revision < revision:
            continue  # an earlier session's turn, or a turn that is already written
        if turn.revision == revision + 1 and number:
            revision, number = turn.revision, 0
        if (turn.revision, turn.number) != (revision, number + 1):
            return
        number = turn.number
        change = _change(ledger, held, turn, max(0.0, now - turn.at))
        row = store.note(held, change)
        parts = {name: part for name, part in held.parts.items() if name not in change.drop} | dict(change.put)
        held = Held(row, parts, held.epoch)


def _change(ledger: Ledger, held: Held, turn: LoggedTurn, age_seconds: float) -> Change:
    try:
        change = ledger.advance(held, turn.snapshot, turn.plain.request_id, _record(turn))
    except (KeyError, struct.error) as error:
        raise StoreInvalid(f"the log of turns, or session {held.row.id}, is damaged") from error
    return Change(change.position, change.put, change.drop, age_seconds)


def _record(turn: LoggedTurn) -> bytes:
    """Returns the record of the turn's answer, or nothing if it has no request id."""
    plain, position = turn.plain, SnapshotCodec.position(turn.snapshot)
    if not plain.request_id:
        return b""
    return write_plain_record(plain.token_id, plain.num_candidates, turn.ids, turn.log_probabilities, position)
