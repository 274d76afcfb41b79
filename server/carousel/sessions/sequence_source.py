"""Taking a sequence for a turn: a session's, a sealed state's, or a fresh one; saved at most once, with its answer.

Exactly once: a request that was applied is answered from the record, and one that expects another position is refused.
The record is written in the same change as the state, so there is never one without the other.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from carousel.bundle.tokenizer import Tokenizer
from carousel.errors import AnswerGone, CarouselError, InvalidRequest
from carousel.records import record
from carousel.sessions.access import SessionAccess
from carousel.sessions.answers import (
    Answer,
    Record,
    Request,
    answer_room,
    answered_position,
    fingerprint,
    read_record,
    write_record,
)
from carousel.sessions.checks import check_position
from carousel.sessions.deeds import check_request_id, used_otherwise
from carousel.sessions.ledger import Ledger
from carousel.sessions.requests import Caller, Standing
from carousel.sessions.sealing import Sealer
from carousel.sessions.text import pending_bytes
from carousel.state.codec import SnapshotCodec
from carousel.state.store import Held
from carousel.turns import Snapshot

_RECORD_BYTES = 256  # beside the answer: ids, fingerprints


@record(frozen=True, slots=True)
class Outcome:
    """A turn's result, to be saved: where the sequence stands, the ids that it consumed, the answer to remember."""

    snapshot: Snapshot
    ids: Sequence[int]
    answer: Answer | None  # None: it is not to be recorded


@dataclass(slots=True)
class TurnSequence:
    """A turn's hold on its sequence."""

    start: Snapshot
    is_kept: bool
    replay: Answer | None  # the request was applied before; `standing` is where that left the sequence
    standing: Standing
    save: Callable[[Outcome], Awaitable[Standing]]  # once, at the end
    max_answer_bytes: int = 0  # of the answer that is recorded; 0: none is
    is_told: bool = False  # something of the answer has gone out: set by whoever hands it out


class SequenceSource:
    """Gives turns their sequences."""

    def __init__(
        self,
        access: SessionAccess,
        ledger: Ledger,
        codec: SnapshotCodec,
        sealer: Sealer,
        tokenizer: Tokenizer,
        clock: Callable[[], float],
        *,
        snapshot_bytes: int,
        seal_seconds: float,
        start: Callable[[], Snapshot],
    ) -> None:
        """`snapshot_bytes` is the most that a snapshot takes; `start` says where every fresh sequence stands."""
        self._access = access
        self._ledger = ledger
        self._codec = codec
        self._sealer = sealer
        self._tokenizer = tokenizer
        self._clock = clock
        self._snapshot_bytes = snapshot_bytes
        self._seal_seconds = seal_seconds
        self._start = start

    @contextlib.asynccontextmanager
    async def hold(self, caller: Caller, request: Request) -> AsyncIterator[TurnSequence]:
        """The caller is checked by then. Raises SessionNotFound, SessionEnded, PositionMismatch, AnswerGone,
        StateRefused, or InvalidRequest for a request id used for something else."""
        if caller.state:
            with self._sealed(caller) as sequence:
                yield sequence
        elif not caller.session_id:
            yield TurnSequence(self._start(), False, None, Standing(0, 0), _forget)
        else:
            max_answer_bytes = answer_room(self._ledger.retention, request) if caller.request_id else 0
            room = self._snapshot_bytes + max_answer_bytes + _RECORD_BYTES
            async with self._access.hold(caller.owner, caller.session_id, room) as held:
                yield self._hold_session(
                    caller, held, fingerprint(request) if caller.request_id else "", max_answer_bytes
                )

    def _hold_session(self, caller: Caller, held: Held, mark: str, max_answer_bytes: int) -> TurnSequence:
        replay = self._find_replay(caller, held, mark)
        start = self._codec.decode(self._ledger.current(held))
        if replay is None:
            check_position(held.row.position, caller.expected_position)
        position = held.row.position if replay is None else answered_position(replay)
        durable_position = min(position, self._access.durable_position(held.row))
        standing = Standing(position, durable_position, is_replay=replay is not None)

        async def save(outcome: Outcome) -> Standing:
            content = b""
            if outcome.answer is not None and max_answer_bytes:
                content = write_record(Record(mark, outcome.answer))
            answer = content if len(content) <= max_answer_bytes else b""
            blob = self._codec.encode(self._with_tail(start, outcome))
            change = self._ledger.advance(held, blob, caller.request_id, answer)
            row = await self._access.commit(held, change)
            return Standing(row.position, self._access.durable_position(row))

        return TurnSequence(start, True, replay, standing, save, max_answer_bytes)

    def _find_replay(self, caller: Caller, held: Held, mark: str) -> Answer | None:
        """Looked up before the position is compared: a repeat expects the position before it was applied."""
        ledger = self._ledger
        if not caller.request_id or not ledger.is_used(held, caller.request_id):
            return None
        content = ledger.find_answer(held, caller.request_id)
        if not content:
            if ledger.find_move(held, caller.request_id) is not None:
                raise used_otherwise()
            text = f"request {caller.request_id} was applied; its answer is no longer kept"
            raise AnswerGone(text, position=str(held.row.position))
        record = read_record(content)
        if record.fingerprint != mark:
            raise used_otherwise()
        return record.answer

    @contextlib.contextmanager
    def _sealed(self, caller: Caller) -> Iterator[TurnSequence]:
        now = self._clock()
        opened = self._sealer.open(caller.state, caller.owner, now)
        start = self._codec.decode(opened.snapshot)
        self._sealer.note_use(opened, now)

        async def save(outcome: Outcome) -> Standing:
            snapshot = self._with_tail(start, outcome)
            expires_at = self._clock() + self._seal_seconds
            sealed = self._sealer.seal(self._codec.encode(snapshot), caller.owner, expires_at)
            sequence.is_told = True
            # The caller holds it: nothing here can be lost.
            return Standing(snapshot.position, snapshot.position, sealed)

        sequence = TurnSequence(start, True, None, Standing(start.position, start.position), save)
        try:
            check_position(start.position, caller.expected_position)
            yield sequence
        except CarouselError:  # a definite refusal; whoever is cancelled may have had an answer
            if not sequence.is_told:
                self._sealer.forgive(opened)
            raise

    def _with_tail(self, start: Snapshot, outcome: Outcome) -> Snapshot:
        tail = pending_bytes(self._tokenizer, start.tail, outcome.ids)
        return outcome.snapshot if tail == outcome.snapshot.tail else replace(outcome.snapshot, tail=tail)


def check_caller(caller: Caller) -> None:
    """The one rule for all turns: a request id needs a session to be remembered in; an expected position needs a
    session or a state that stands somewhere. Raises InvalidRequest."""
    if caller.state and caller.session_id:
        raise InvalidRequest("state", "cannot be given together with a session")
    check_request_id(caller.request_id)
    if caller.request_id and not caller.session_id:
        raise InvalidRequest("request_id", "needs a session to be remembered in")
    if caller.expected_position is not None and not (caller.session_id or caller.state):
        raise InvalidRequest("expected_position", "needs a session or a state")


async def _forget(outcome: Outcome) -> Standing:
    return Standing(len(outcome.ids), 0)
