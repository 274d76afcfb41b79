"""Where a turn with a lineage runs: it goes on from the end of an earlier turn, and its own end gets a name.

A session goes on only from where it stands: a turn that names an older end gets a session of its own, from the retained
snapshot, so no two turns ever follow each other unseen. That session is created at the turn's end, together with the
answer: a turn that fails leaves nothing. Its id follows from the owner and the request's id, where there is one: a
repeat finds it there.
"""

import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from hashlib import blake2b

from carousel.errors import AnswerGone, InvalidRequest, PositionUnknown, SessionEnded, SessionExists, SessionMoved
from carousel.records import record
from carousel.sessions.access import SessionAccess
from carousel.sessions.answers import GenerationAnswer, Record, answer_room, fingerprint, read_record, write_record
from carousel.sessions.creation import Creation
from carousel.sessions.deeds import derive_id, draw_id
from carousel.sessions.ledger import Ledger, Origin
from carousel.sessions.requests import Caller, GenerationRequest, Lineage, Receipt, Standing, Waypoint
from carousel.sessions.sequence_source import Outcome, SequenceSource, TurnSequence
from carousel.state.codec import SnapshotCodec
from carousel.state.store import Birth, Held, Row
from carousel.turns import Snapshot

_RECORD_BYTES = 256  # besides the answer: ids, fingerprints


@record(frozen=True, slots=True)
class _Plan:
    """A turn that is to be kept."""

    caller: Caller  # with a request id
    mark: str  # the request's fingerprint
    new_id: str  # of the session that it may make
    is_repeatable: bool  # its caller chose the request id
    max_answer_bytes: int
    room: int


class Lineages:
    """Gives turns with a lineage their sequences, and finds what earlier ones left."""

    def __init__(
        self,
        access: SessionAccess,
        ledger: Ledger,
        codec: SnapshotCodec,
        sequences: SequenceSource,
        creation: Creation,
        *,
        snapshot_bytes: int,
        start: Callable[[], Snapshot],
    ) -> None:
        """`snapshot_bytes` is a snapshot's maximum size; `start` returns the snapshot of every fresh sequence."""
        self._access = access
        self._ledger = ledger
        self._codec = codec
        self._sequences = sequences
        self._creation = creation
        self._snapshot_bytes = snapshot_bytes
        self._start = start

    @contextlib.asynccontextmanager
    async def hold(self, caller: Caller, request: GenerationRequest) -> AsyncIterator[TurnSequence]:
        """Holds the sequence of a caller with a lineage that passed `check_caller`. Raises as `SequenceSource.hold`,
        PositionUnknown for an end that is not retained, SessionMoved where another server was faster, and what
        `check_founding` raises."""
        assert caller.lineage is not None
        async with contextlib.AsyncExitStack() as stack:
            if not caller.lineage.is_kept:
                yield await self._unkept(caller, caller.lineage)
            else:
                yield await self._kept(stack, self._plan(caller, caller.lineage, request))

    async def find(self, owner: str, waypoint: Waypoint) -> tuple[GenerationAnswer, str]:
        """Returns the answer of the turn that ended there, and its memo. Raises SessionNotFound, SessionEnded, or
        PositionUnknown where it is not kept."""
        async with self._hold(owner, waypoint) as held:
            content = self._ledger.answer_at(held, waypoint.revision)
        found = read_record(content) if content else None
        if found is None or not isinstance(found.answer, tuple):
            raise PositionUnknown("that answer is not kept any more")
        return found.answer[0], found.memo

    async def forget(self, owner: str, waypoint: Waypoint) -> None:
        """Ends the session that stands there. Otherwise forgets that turn's end and answer alone. Raises as `find`."""
        async with self._hold(owner, waypoint, self._snapshot_bytes) as held:
            if self._ledger.is_newest(held, waypoint.revision):
                await self._access.end(held.row)
                return
            change = self._ledger.forget(held, waypoint.revision)
            if change is None:
                raise PositionUnknown("that answer is not kept any more")
            await self._access.commit(held, change)

    @contextlib.asynccontextmanager
    async def _hold(self, owner: str, waypoint: Waypoint, room: int = 0) -> AsyncIterator[Held]:
        """Holds the session of the waypoint, in the incarnation that it names."""
        async with self._access.hold(owner, waypoint.session_id, room) as held:
            if held.row.incarnation != waypoint.incarnation:
                raise SessionEnded(f"that session {waypoint.session_id} has ended; another one has its id")
            yield held

    def _plan(self, caller: Caller, lineage: Lineage, request: GenerationRequest) -> _Plan:
        most = self._ledger.retention.max_answer_bytes
        max_answer_bytes = min(most, answer_room(self._ledger.retention, request) + 2 * len(lineage.memo.encode()))
        is_repeatable = bool(caller.request_id)
        new_id = derive_id(caller.owner, f"after {caller.request_id}", 0) if is_repeatable else draw_id()
        return _Plan(
            caller if is_repeatable else replace(caller, request_id=secrets.token_hex(16)),
            _mark(request, lineage.after),
            new_id,
            is_repeatable,
            max_answer_bytes,
            self._snapshot_bytes + max_answer_bytes + _RECORD_BYTES,
        )

    async def _kept(self, stack: contextlib.AsyncExitStack, plan: _Plan) -> TurnSequence:
        """Enters into `stack` what the turn holds. A repeat looks first where the request may have led."""
        caller, lineage = plan.caller, plan.caller.lineage
        assert lineage is not None
        if caller.session_id:
            held = await stack.enter_async_context(self._access.hold(caller.owner, caller.session_id, plan.room))
            return self._sequences.hold_session(caller, held, plan.mark, plan.max_answer_bytes)
        if lineage.after is None:
            return await self._found(stack, plan, self._start(), None)
        refusal = None  # another request has founded a session by this id; this one may have gone on before that
        if plan.is_repeatable and await self._is_founded(plan):
            try:
                if found := await self._repeat(stack, plan):
                    return found
            except InvalidRequest as error:
                refusal = error
        await stack.aclose()  # one session at a time: two could wait for each other
        held = await stack.enter_async_context(self._hold(caller.owner, lineage.after, plan.room))
        is_applied = self._ledger.is_used(held, caller.request_id)
        if refusal is not None and not is_applied:
            raise refusal
        if is_applied or self._ledger.is_newest(held, lineage.after.revision):
            return self._sequences.hold_session(caller, held, plan.mark, plan.max_answer_bytes)
        start = self._locate(held, lineage.after)
        await stack.aclose()  # the turn on the new session does not keep others from this one
        origin = Origin(lineage.after.session_id, lineage.after.incarnation, start.position)
        return await self._found(stack, plan, start, origin)

    async def _is_founded(self, plan: _Plan) -> bool:
        return isinstance(await self._access.read(plan.caller.owner, plan.new_id), Row)

    async def _repeat(self, stack: contextlib.AsyncExitStack, plan: _Plan) -> TurnSequence | None:
        """Returns the recorded answer if an attempt of the request has made its session. Otherwise nothing but that
        session's id is held: no other attempt here runs meanwhile."""
        scope = self._access.hold_or_vacant(plan.caller.owner, plan.new_id, plan.room)
        held = await stack.enter_async_context(scope)
        if held is None:
            return None
        if not self._ledger.is_used(held, plan.caller.request_id):
            text = f"request {plan.caller.request_id} was applied; its answer is no longer kept"
            raise AnswerGone(text, position=str(held.row.position))
        return self._sequences.hold_session(plan.caller, held, plan.mark, plan.max_answer_bytes)

    async def _found(
        self, stack: contextlib.AsyncExitStack, plan: _Plan, start: Snapshot, origin: Origin | None
    ) -> TurnSequence:
        """Returns the sequence of a turn that makes a session at its end, or the recorded answer of one that has."""
        lineage = plan.caller.lineage
        assert lineage is not None
        if plan.is_repeatable and (found := await self._repeat(stack, plan)):
            return found
        lineage.check_founding()
        incarnation = secrets.randbits(62)
        receipt = Receipt(Waypoint(plan.new_id, incarnation, 0), lineage.memo)

        async def save(outcome: Outcome) -> Standing:
            birth = self._make_birth(plan, incarnation, origin, self._sequences.encode(start, outcome), outcome)
            row = await self._create(plan, birth)
            return Standing(row.position, self._access.durable_position(row))

        standing = Standing(start.position, 0)
        return TurnSequence(start, True, None, standing, save, plan.max_answer_bytes, receipt)

    def _make_birth(
        self, plan: _Plan, incarnation: int, origin: Origin | None, snapshot: bytes, outcome: Outcome
    ) -> Birth:
        caller, lineage = plan.caller, plan.caller.lineage
        assert lineage is not None
        answer = b""
        if outcome.answer is not None and plan.max_answer_bytes:
            answer = write_record(Record(plan.mark, outcome.answer, lineage.memo))
        return self._ledger.open(plan.new_id, caller.owner, incarnation, snapshot, origin, caller.request_id, answer)

    async def _create(self, plan: _Plan, birth: Birth) -> Row:
        try:
            with plan.caller.timeline.measure("store"):
                (row,) = await self._creation.create([birth])
        except SessionExists:
            raise SessionMoved("another server has just answered this request; repeat it") from None
        return row

    async def _unkept(self, caller: Caller, lineage: Lineage) -> TurnSequence:
        start = self._start()
        if lineage.after is not None:
            async with self._hold(caller.owner, lineage.after) as held:
                start = self._locate(held, lineage.after)

        async def save(outcome: Outcome) -> Standing:
            return Standing(outcome.snapshot.position, 0)

        return TurnSequence(start, False, None, Standing(start.position, 0), save, 0, Receipt(None, lineage.memo))

    def _locate(self, held: Held, waypoint: Waypoint) -> Snapshot:
        blob = self._ledger.locate(held, waypoint.revision)
        if blob is None:
            raise PositionUnknown("the state at that end of a turn is not retained any more")
        return self._codec.decode(blob)


def _mark(request: GenerationRequest, after: Waypoint | None) -> str:
    """Returns the same text for equal requests that go on from the same end."""
    content = repr((fingerprint(request), after and (after.session_id, after.incarnation, after.revision)))
    return blake2b(content.encode(), digest_size=12).hexdigest()
