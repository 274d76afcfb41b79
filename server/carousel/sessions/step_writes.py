"""The turns of one step, written together before any of them is answered: one hand-over to the store, one that comes
back."""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from carousel.sessions.resident import Named, Resident, Sink
from carousel.state.store import Change, GroupStore, Held, Row

_NOTHING = Change(0, {})


class Noted(NamedTuple):
    """A turn that has happened in the columns, and not yet in the store."""

    resident: Resident
    named: Named
    sink: Sink


class StepWrites:
    """Turns that are noted in one round of the event loop go together. A turn is written although whoever asked has
    gone: its resident rests when that is done. `written` is told of each what became of it."""

    def __init__(
        self,
        store: GroupStore,
        clock: Callable[[], float],
        written: Callable[[Noted, Change, Row | Exception], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._written = written
        self._noted: list[Noted] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"StepWrites({len(self._noted)} turns to write, {len(self._tasks)} writes running)"

    def add(self, noted: Noted) -> None:
        self._noted.append(noted)
        if len(self._noted) == 1:
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        noted, self._noted = self._noted, []
        task = asyncio.create_task(self._write(noted), name="step-writes")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, noted: Sequence[Noted]) -> None:
        now, changes = self._clock(), list[tuple[Held, Change]]()
        outcomes: Sequence[Row | Exception]
        try:
            changes = [(one.resident.held, one.resident.change(now)) for one in noted]
            outcomes = await self._store.commit_all(changes)
        except Exception as error:  # a defect of ours; nobody may wait for ever
            outcomes = [error] * len(noted)
            changes = changes or [(one.resident.held, _NOTHING) for one in noted]
        for one, (_, change), outcome in zip(noted, changes, outcomes, strict=True):
            self._written(one, change, outcome)
