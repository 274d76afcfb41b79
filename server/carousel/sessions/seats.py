"""Taking a sequence for a turn: a session's, a sealed state's, or a fresh one; saved at most once, with its answer.

Exactly once: a request that was applied is answered from the record, and one that expects another position is refused.
The record is written in the same change as the state, so there is never one without the other.
"""

import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace

from carousel.bundle.tokenizer import Tokenizer
from carousel.engine.engine import Engine
from carousel.errors import AnswerGone, InvalidRequest
from carousel.records import record
from carousel.sessions.answers import Answer, Record, Request, answered_position, fingerprint, read_record, write_record
from carousel.sessions.lives import Lives, check_position
from carousel.sessions.requests import Caller, Standing
from carousel.sessions.text import pending_bytes
from carousel.state.store import Held
from carousel.turns import Snapshot

_REQUEST_ID = re.compile(r"[A-Za-z0-9._~-]{1,64}")


@record(frozen=True, slots=True)
class Outcome:
    """A turn's result, to be saved: where the sequence stands, the ids that it consumed, the answer to remember."""

    snapshot: Snapshot
    ids: Sequence[int]
    answer: Answer


@record(frozen=True, slots=True)
class Seat:
    """A turn's hold on its sequence."""

    start: Snapshot
    is_kept: bool
    replay: Answer | None  # the request was applied before; `standing` is where that left the sequence
    standing: Standing
    save: Callable[[Outcome], Awaitable[Standing]]  # once, at the end


class Seats:
    """Gives turns their sequences."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, lives: Lives, seal_seconds: float) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._lives = lives
        self._seal_seconds = seal_seconds

    @contextlib.asynccontextmanager
    async def take(self, caller: Caller, request: Request) -> AsyncIterator[Seat]:
        """Refused (Overloaded, ShuttingDown) before any session is looked at. Raises SessionNotFound, SessionEnded,
        PositionMismatch, StateRefused, or InvalidRequest for a request id used for something else before."""
        self._engine.check_open()
        _check_caller(caller)
        if caller.state:
            with self._sealed(caller) as seat:
                yield seat
        elif not caller.session_id:
            yield Seat(self._engine.start_snapshot, False, None, Standing(0, 0), _forget)
        else:
            async with self._lives.take(caller.owner, caller.session_id) as held:
                yield self._seat(caller, held, fingerprint(request) if caller.request_id else "")

    def _seat(self, caller: Caller, held: Held, mark: str) -> Seat:
        replay = self._find_replay(caller, held, mark)
        start = self._lives.codec.decode(self._lives.ledger.current(held))
        if replay is None:
            check_position(held.row, caller.expected_position)
        position = held.row.position if replay is None else answered_position(replay)
        durable_position = min(position, self._lives.durable_position(held.row))
        standing = Standing(position, durable_position, is_replay=replay is not None)
        save = lambda outcome: self._save(caller, held, start, mark, outcome)  # noqa: E731
        return Seat(start, True, replay, standing, save)

    def _find_replay(self, caller: Caller, held: Held, mark: str) -> Answer | None:
        content = self._lives.ledger.find_answer(held, caller.request_id) if caller.request_id else None
        if content is None:
            return None
        if not content:
            text = f"request {caller.request_id} was applied; its answer was too large to keep"
            raise AnswerGone(text, position=str(held.row.position))
        record = read_record(content)
        if record.fingerprint != mark:
            raise InvalidRequest("request_id", "was used for another request on this session")
        return record.answer

    async def _save(self, caller: Caller, held: Held, start: Snapshot, mark: str, outcome: Outcome) -> Standing:
        snapshot = self._with_tail(start, outcome)
        content = write_record(Record(mark, outcome.answer)) if caller.request_id else b""
        blob = self._lives.codec.encode(snapshot)
        change = self._lives.ledger.advance(held, blob, self._lives.clock(), caller.request_id, content)
        row = await self._lives.commit(held, change)
        return Standing(row.position, self._lives.durable_position(row))

    @contextlib.contextmanager
    def _sealed(self, caller: Caller) -> Iterator[Seat]:
        opened = self._lives.unseal(caller.state, caller.owner)
        start = self._lives.codec.decode(opened.snapshot)
        is_saved = False

        async def save(outcome: Outcome) -> Standing:
            nonlocal is_saved
            snapshot = self._with_tail(start, outcome)
            sealed = self._lives.seal(self._lives.codec.encode(snapshot), caller.owner, self._seal_seconds)
            is_saved = True
            # The caller holds it: nothing here can be lost.
            return Standing(snapshot.position, snapshot.position, sealed)

        try:
            if caller.expected_position is not None and caller.expected_position != start.position:
                raise InvalidRequest("expected_position", f"the state stands at {start.position}")
            yield Seat(start, True, None, Standing(start.position, start.position), save)
        finally:
            if not is_saved:
                self._lives.forgive(opened)

    def _with_tail(self, start: Snapshot, outcome: Outcome) -> Snapshot:
        tail = pending_bytes(self._tokenizer, start.tail, outcome.ids)
        return outcome.snapshot if tail == outcome.snapshot.tail else replace(outcome.snapshot, tail=tail)


def _check_caller(caller: Caller) -> None:
    if caller.state and caller.session_id:
        raise InvalidRequest("state", "cannot be given together with a session")
    if caller.request_id and not _REQUEST_ID.fullmatch(caller.request_id):
        raise InvalidRequest("request_id", "must be 1 to 64 characters of A-Z a-z 0-9 . _ ~ -")
    if caller.request_id and not caller.session_id:
        raise InvalidRequest("request_id", "needs a session to be remembered in")


async def _forget(outcome: Outcome) -> Standing:
    return Standing(len(outcome.ids), 0)
