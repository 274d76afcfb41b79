"""Takes a sequence for a turn: a session's, a sealed state's, or a fresh one. Saves it at most once, with its answer.

Each request is applied exactly once. A retry of an applied request gets its answer from the record, and a request that
expects another position is refused. One change writes both the record and the state, so neither exists alone.
"""

import contextlib
import time
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
from carousel.sessions.requests import Caller, Receipt, Standing, Waypoint
from carousel.sessions.sealing import Sealer
from carousel.sessions.text import pending_bytes
from carousel.state.codec import SnapshotCodec
from carousel.state.store import Held
from carousel.turns import Snapshot

_RECORD_BYTES = 256  # besides the answer: ids, fingerprints


@record(frozen=True, slots=True)
class Outcome:
    """A turn's result, ready to save: the new snapshot, the consumed ids, and the answer to record."""

    snapshot: Snapshot
    ids: Sequence[int]
    answer: Answer | None  # None: no answer is recorded


@dataclass(slots=True)
class TurnSequence:
    """A turn's hold on its sequence."""

    start: Snapshot
    is_kept: bool
    replay: Answer | None  # the answer, if the request was applied before; `standing` is the one after it
    standing: Standing
    save: Callable[[Outcome], Awaitable[Standing]]  # called once, at the end
    max_answer_bytes: int = 0  # of the recorded answer; 0: none is recorded
    receipt: Receipt | None = None  # where the caller has a lineage
    is_told: bool = False  # part of the answer was sent; the sender sets it


class SequenceSource:
    """Gives each turn its sequence."""

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
        """`snapshot_bytes` is a snapshot's maximum size; `start` returns the snapshot of every fresh sequence."""
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
        """Holds the sequence of a caller that passed `check_caller`. Raises SessionNotFound, SessionEnded,
        PositionMismatch, AnswerGone, StateRefused, or InvalidRequest for a request id used for another request."""
        if caller.state:
            with self._sealed(caller) as sequence:
                yield sequence
        elif not caller.session_id:
            yield TurnSequence(self._start(), False, None, Standing(0, 0), _forget)
        else:
            max_answer_bytes = answer_room(self._ledger.retention, request) if caller.request_id else 0
            room = self._snapshot_bytes + max_answer_bytes + _RECORD_BYTES
            began = time.perf_counter()
            async with self._access.hold(caller.owner, caller.session_id, room) as held:
                caller.timeline.note("hold", began, time.perf_counter())
                mark = fingerprint(request) if caller.request_id else ""
                yield self.hold_session(caller, held, mark, max_answer_bytes)

    def hold_session(self, caller: Caller, held: Held, mark: str, max_answer_bytes: int) -> TurnSequence:
        """Returns the turn's sequence on a held session. `mark` is the request's fingerprint. Raises as `hold`."""
        record = self._find_record(caller, held, mark)
        replay = None if record is None else record.answer
        start = self._codec.decode(self._ledger.current(held))
        if replay is None:
            check_position(held.row.position, caller.expected_position)
        position = held.row.position if replay is None else answered_position(replay)
        durable_position = min(position, self._access.durable_position(held.row))
        standing = Standing(position, durable_position, is_replay=replay is not None)

        async def save(outcome: Outcome) -> Standing:
            content = b""
            if outcome.answer is not None and max_answer_bytes:
                content = write_record(Record(mark, outcome.answer, "" if receipt is None else receipt.memo))
            answer = content if len(content) <= max_answer_bytes else b""
            blob = self.encode(start, outcome)
            change = self._ledger.advance(held, blob, caller.request_id, answer)
            with caller.timeline.measure("store"):
                row = await self._access.commit(held, change)
            return Standing(row.position, self._access.durable_position(row))

        receipt = self._receipt(caller, held, record)
        return TurnSequence(start, True, replay, standing, save, max_answer_bytes, receipt)

    def encode(self, start: Snapshot, outcome: Outcome) -> bytes:
        """Returns the bytes of the snapshot after a turn that began at `start`."""
        return self._codec.encode(self._with_tail(start, outcome))

    def _receipt(self, caller: Caller, held: Held, record: Record | None) -> Receipt | None:
        if caller.lineage is None:
            return None
        row = held.row
        if record is None:
            return Receipt(Waypoint(row.id, row.incarnation, row.revision + 1), caller.lineage.memo)
        revision = self._ledger.answered_revision(held, caller.request_id)
        return Receipt(Waypoint(row.id, row.incarnation, revision), record.memo)

    def _find_record(self, caller: Caller, held: Held, mark: str) -> Record | None:
        """Finds the recorded answer. Runs before the position check: a retry expects the position before its turn."""
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
        return record

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
            # The caller holds the state: a crash of the server loses nothing.
            return Standing(snapshot.position, snapshot.position, sealed)

        sequence = TurnSequence(start, True, None, Standing(start.position, start.position), save)
        try:
            check_position(start.position, caller.expected_position)
            yield sequence
        except CarouselError:  # a definite refusal; a cancelled caller may have received an answer
            if not sequence.is_told:
                self._sealer.forgive(opened)
            raise

    def _with_tail(self, start: Snapshot, outcome: Outcome) -> Snapshot:
        tail = pending_bytes(self._tokenizer, start.tail, outcome.ids)
        return outcome.snapshot if tail == outcome.snapshot.tail else replace(outcome.snapshot, tail=tail)


def check_caller(caller: Caller) -> None:
    """Checks the rule for all turns: a request id needs a session that remembers it, and an expected position needs a
    session or a state. Raises InvalidRequest."""
    if caller.state and caller.session_id:
        raise InvalidRequest("state", "cannot be given together with a session")
    check_request_id(caller.request_id)
    if caller.request_id and not caller.session_id and caller.lineage is None:
        raise InvalidRequest("request_id", "needs a session to be remembered in")
    if caller.expected_position is not None and not (caller.session_id or caller.state):
        raise InvalidRequest("expected_position", "needs a session or a state")


async def _forget(outcome: Outcome) -> Standing:
    return Standing(len(outcome.ids), 0)
