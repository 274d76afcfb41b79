"""Commits the turns of one step together, before any of them is answered: one call to the store, one return."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from carousel.sessions.resident import Named, Resident, Sink
from carousel.sessions.rounds import Rounds, tell
from carousel.state.store import Change, GroupStore, Held, Row

_NOTHING = Change(0, {})


class Noted(NamedTuple):
    """A turn that has happened in the columns but not yet in the store."""

    resident: Resident
    named: Named
    sink: Sink


class StepWrites:
    """Writes turns to a store and calls `written` with the outcome of each. A turn is written even if its caller has
    gone."""

    def __init__(
        self,
        store: GroupStore,
        clock: Callable[[], float],
        written: Callable[[Noted, Change, Row | Exception], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._written = written
        self._rounds = Rounds(self._write, "step-writes")

    def __repr__(self) -> str:
        return f"StepWrites({self._rounds!r})"

    def add(self, noted: Noted) -> None:
        self._rounds.add(noted)

    async def _write(self, noted: Sequence[Noted]) -> None:
        now, changes = self._clock(), list[tuple[Held, Change]]()
        outcomes: Sequence[Row | Exception]
        try:
            changes = [(one.resident.held, one.resident.change(now)) for one in noted]
            outcomes = await self._store.commit_all(changes)
        except Exception as error:  # a defect of ours; no caller may hang
            outcomes = [error] * len(noted)
            changes = changes or [(one.resident.held, _NOTHING) for one in noted]
        for one, (_, change), outcome in zip(noted, changes, outcomes, strict=True):
            tell(partial(self._written, one, change, outcome))
