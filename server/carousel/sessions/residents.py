"""The sessions that Predict streams hold. All other callers see these sessions as if no stream held them.

A caller that wants a session asks here first (`leave`): that waits for the running turn, writes what happened and gives
the session back. For one second after that, no stream holds the session. An idle session goes back soon, so that it
expires in time. When the columns are full, the session idle for longest makes room.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from carousel.engine.columns import Columns
from carousel.engine.engine import Engine
from carousel.errors import Overloaded, SessionMoved, StateInvalid, StoreUnavailable
from carousel.sessions import checks
from carousel.sessions.endurance import finish
from carousel.sessions.order import Key, TurnOrder
from carousel.sessions.resident import Kit, Named, Plain, Resident, Sink, checked
from carousel.sessions.step_writes import Noted, StepWrites
from carousel.sessions.turn_log import Drafted, TurnLog
from carousel.state.store import (
    Change,
    Ending,
    GroupStore,
    Held,
    ImmediateStore,
    LaterStore,
    LogStore,
    Row,
    SessionStore,
)

_now = time.monotonic
_IDLE_SECONDS = 0.25
_MARGIN_SECONDS = 1.0  # before the expiry that the store knows: a turn takes less
_WANTED_SECONDS = 1.0
_MAX_UNWRITTEN = 256  # turns of one session
_MAX_LEAVING = 16  # residents that leave without a pause
_NOT_TO_BE_HAD = (Overloaded, StateInvalid, StoreUnavailable)


class _Asking:
    """A caller that waits for the answer until it gives up."""

    __slots__ = ("answer",)

    def __init__(self, answer: "asyncio.Future[Named | None]") -> None:
        self.answer = answer

    @property
    def is_over(self) -> bool:
        return self.answer.done()

    def put(self, outcome: Named | Exception | None) -> None:
        if self.answer.done():
            return
        if isinstance(outcome, Exception):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


class Residents:
    """The held sessions of one store, whose kind decides when turns are written. An immediate store gets them when the
    session leaves; there a resident is in use only while a turn runs. In other stores it stays taken. A store that
    writes later gets its turns before it writes. A store that writes at once gets all turns of a step together, before
    their answers."""

    def __init__(
        self,
        engine: Engine,
        make_kit: Callable[[], Kit],
        store: SessionStore,
        order: TurnOrder,
        clock: Callable[[], float],
        *,
        is_enabled: bool = True,
    ) -> None:
        self._engine = engine
        self._make_kit = make_kit
        self._store = store
        self._immediate: ImmediateStore | None = None
        self._later: LaterStore | None = None
        self._log: TurnLog | None = None
        self._writes: StepWrites | None = None
        if isinstance(store, ImmediateStore):
            self._immediate = store
        elif isinstance(store, LaterStore):
            self._later = store
            store.settle_with(self.settle)
            if isinstance(store, LogStore):
                self._log = TurnLog(store, clock, self._logged, self._refused)
        elif isinstance(store, GroupStore):
            self._writes = StepWrites(store, clock, self._written)
        else:
            is_enabled = False
        self._order = order
        self._clock = clock
        self._is_enabled = is_enabled
        self._kit: Kit | None = None
        self._here: dict[Key, Resident] = {}  # the one idle for longest first
        self._wanted: dict[Key, float] = {}  # when another caller last wanted the session
        self._gone: dict[Resident, None] = {}  # ended while they were here, not cleared yet

    def __repr__(self) -> str:
        return f"Residents({len(self._here)} here)"

    def __len__(self) -> int:
        return len(self._here)

    @property
    def is_enabled(self) -> bool:
        """Whether sessions can be held at all."""
        return self._is_enabled and self._engine.columns.num_slots > 0

    @property
    def num_slots(self) -> int:
        """The number of column slots in use: by residents, by those still leaving, and by carried sequences."""
        return self._engine.columns.num_used

    def may_begin(self, resident: Resident, plain: Plain) -> bool:
        """Whether the resident can run the turn now. Other turns take the ordinary path, in order of arrival. Raises
        PositionMismatch."""
        return not (resident.is_busy or self._order.is_held(resident.key)) and self._fits(resident, plain)

    async def run_turn(self, resident: Resident, plain: Plain) -> Named | None:
        """Runs the turn. Returns None if it did not happen and must take the ordinary path. A cancelled caller gives
        the turn up, unless it has happened. Raises ModelFailed, Overloaded, StoreUnavailable, or ShuttingDown."""
        asking = _Asking(self._engine.create_future())
        return await asking.answer if self.begin_turn(resident, plain, asking) else None

    def begin_turn(self, resident: Resident, plain: Plain, sink: Sink) -> bool:
        """Begins the turn without waiting. Returns False if it cannot begin. Raises Overloaded."""
        if self._immediate is not None and not self._immediate.pin(*resident.key):
            return False
        try:
            resident.begin(plain, self._engine, partial(self._end_turn, resident, plain, sink))
        except Overloaded:
            if self._immediate is not None:
                self._immediate.unpin(*resident.key)
            raise
        return True

    def _end_turn(self, resident: Resident, plain: Plain, sink: Sink, found: Any, error: Exception | None) -> None:
        outcome: Named | Exception | None = error
        try:
            if error is None and not resident.is_leaving and not sink.is_over:
                found = checked(plain, found)
                if self._later is not None:
                    self._later.check_open()
                if self._log is not None:
                    return self._log.add(Drafted(resident, plain, found, sink))
                named = outcome = resident.note(plain, found, self._clock())
                if self._writes is not None:
                    return self._writes.add(Noted(resident, named, sink))
                if self._later is not None:
                    outcome = named.durable_to(self._store.durable_position(resident.held.row))
        except Exception as refusal:
            outcome = refusal
        if self._immediate is not None:
            self._immediate.unpin(*resident.key)
        self._rest(resident)
        sink.put(outcome)

    def _logged(self, drafted: Drafted, now: float) -> None:
        """Completes a turn that is now in the log. It has happened, unless its session has ended meanwhile."""
        resident, plain, found, sink = drafted
        outcome: Named | Exception | None = None
        try:
            if not resident.is_leaving:
                named = resident.note(plain, found, now)
                outcome = named.durable_to(named.position)
        except Exception as error:  # a defect of ours
            outcome = error
        self._rest(resident)
        sink.put(outcome)

    def _refused(self, drafted: Drafted, error: Exception) -> None:
        self._rest(drafted.resident)
        drafted.sink.put(error)

    def _written(self, noted: Noted, change: Change, outcome: Row | Exception) -> None:
        """Answers a turn after its write, which had to come first."""
        resident, named, sink = noted
        answer: Named | Exception | None = None
        if isinstance(outcome, Row):
            resident.written(outcome, change)
            answer = named.durable_to(self._store.durable_position(outcome))
        else:
            self._lose(resident)
            if not isinstance(outcome, SessionMoved):
                answer = outcome
            elif self._store.is_shared:
                self._wanted[resident.key] = _now()  # another server wants it
        self._rest(resident)
        sink.put(answer)

    def _rest(self, resident: Resident) -> None:
        resident.finish()
        resident.last_used = _now()
        if self._here.get(resident.key) is resident:
            self._here[resident.key] = self._here.pop(resident.key)

    async def settle(self) -> None:
        """Gives the store all turns until now."""
        for number, resident in enumerate(list(self._here.values()), 1):
            if self._log is not None:
                await self._log.until_told(resident)
            if resident.num_turns:
                self._tell(resident)
            if number % _MAX_LEAVING == 0:
                await asyncio.sleep(0)

    def _tell(self, resident: Resident) -> None:
        """Gives a resident's turns to a store that writes later."""
        assert self._later is not None
        change = resident.change(self._clock())
        try:
            row = self._later.note(resident.held, change)
        except SessionMoved:  # it has ended
            return self._lose(resident)
        resident.written(row, change)

    async def move_in(self, key: Key, plain: Plain) -> tuple[Resident | None, Named | None]:
        """Takes the session for a stream and runs the first turn, in order with other callers' turns. Returns None for
        the resident if the session is not available now, for any reason, and None for an answer if no turn happened."""
        if not self.is_enabled or key in self._here or self._is_wanted(key) or self._order.is_held(key):
            return None, None
        async with self._order.hold(key):
            resident = await self._admit(key)
            try:
                if resident is None or not self._fits(resident, plain):
                    return resident, None
                return resident, await self.run_turn(resident, plain)
            except BaseException:  # the stream does not know the resident
                if resident is not None:
                    await self._move_out(resident)
                raise

    async def leave(self, key: Key) -> None:
        """Gives the session back to the store, as if it had never been here. The caller runs the next turn on it."""
        resident = self._here.get(key)
        if resident is not None:
            if not resident.is_excused:
                self._wanted[key] = _now()
            await self._move_out(resident)

    async def leave_all(self, owner: str | None = None) -> bool:
        """Gives back the sessions of an owner, or of all owners. Returns whether there were any."""
        found = [one for key, one in self._here.items() if owner is None or key[0] == owner]
        await self._leave_some(found)
        return bool(found)

    async def leave_due(self) -> None:
        """Gives back the sessions that soon expire, by the store's last known time."""
        soon = self._clock() + 2 * _MARGIN_SECONDS
        await self._leave_some([one for one in self._here.values() if one.held.row.expires_at <= soon])

    def forget(self, ending: Ending) -> None:
        """Drops an ended session. Its unwritten turns never happened."""
        resident = self._here.get((ending.owner, ending.id))
        if resident is None or resident.is_leaving:
            return
        if resident.held.row.incarnation == ending.incarnation:
            self._lose(resident)

    async def run(self) -> None:
        """Runs without end: gives idle sessions back, and forgets which sessions were wanted long ago."""
        while True:
            await asyncio.sleep(_IDLE_SECONDS / 2)
            await self.tidy()

    async def tidy(self) -> None:
        now = _now()
        for key in [key for key, at in self._wanted.items() if at < now - _WANTED_SECONDS]:
            del self._wanted[key]
        await self._leave_some(
            [one for one in self._here.values() if one.last_used < now - _IDLE_SECONDS and not one.is_busy]
        )
        await self.leave_due()
        await self._leave_some(list(self._gone))

    def _is_wanted(self, key: Key) -> bool:
        at = self._wanted.get(key)
        return at is not None and _now() < at + _WANTED_SECONDS

    def _fits(self, resident: Resident, plain: Plain) -> bool:
        if (
            resident.is_leaving
            or resident.is_awaited
            or (plain.request_id and resident.is_known(plain.request_id))
            or self._clock() + _MARGIN_SECONDS >= resident.held.row.expires_at
            or resident.num_turns >= _MAX_UNWRITTEN
            or not self._engine.is_open
        ):
            return False
        checks.check_position(resident.position, plain.expected_position)
        return True

    async def _admit(self, key: Key) -> Resident | None:
        kit = self._kit = self._kit or self._make_kit()
        first_row = await self._find_slot(kit.columns)
        if first_row is None:
            return None
        resident: Resident | None = None
        try:
            held = await self._store.acquire(*key)
            if not isinstance(held, Held):
                return None
            try:
                resident = Resident(kit, held, first_row, _now())
            finally:
                if resident is None or self._store.is_immediate:
                    await self._store.release(held)
        except _NOT_TO_BE_HAD:  # the ordinary path raises it to the caller
            return None
        finally:
            if resident is None:
                kit.columns.free_slot(first_row)
        self._here[key] = resident
        return resident

    async def _find_slot(self, columns: Columns) -> int | None:
        first_row = columns.allocate_slot()
        if first_row is None and await self._make_room():
            first_row = columns.allocate_slot()
        return first_row

    async def _make_room(self) -> bool:
        """Makes one idle resident leave. Returns whether there was one."""
        resident = next((one for one in self._here.values() if not one.is_busy and not one.is_leaving), None)
        if resident is not None:
            await self._move_out(resident)
        return resident is not None

    async def _leave_some(self, residents: Iterable[Resident]) -> None:
        for number, resident in enumerate(residents, 1):
            await self._move_out(resident)
            if number % _MAX_LEAVING == 0:
                await asyncio.sleep(0)

    async def _move_out(self, resident: Resident) -> None:
        resident.is_awaited = True
        await resident.rested()
        if resident in self._gone:
            del self._gone[resident]
            work = self._clear(resident)
        elif resident.is_leaving:  # another caller already moves it out
            await resident.left.wait()
            return
        else:
            resident.is_leaving = True
            work = self._depart(resident)
        await (work if self._store.is_immediate else finish(work))

    async def _depart(self, resident: Resident) -> None:
        try:
            if resident.num_turns and self._later is not None:
                self._tell(resident)
            elif resident.num_turns:
                await self._store.commit(resident.held, resident.change(self._clock()))
        except SessionMoved:
            pass  # the session has ended, and its unwritten turns with it
        finally:
            self._remove(resident)
            await self._clear(resident)

    def _lose(self, resident: Resident) -> None:
        """Removes a resident that no longer matches the store."""
        if not resident.is_leaving:
            self._gone[resident] = None
            self._remove(resident)

    def _remove(self, resident: Resident) -> None:
        resident.is_leaving = True
        del self._here[resident.key]

    async def _clear(self, resident: Resident) -> None:
        """Frees everything that the resident uses."""
        assert self._kit is not None
        try:
            if not self._store.is_immediate:
                await self._store.release(resident.held)
        finally:
            self._kit.columns.free_slot(resident.first_row)
            resident.left.set()
