"""How sessions begin in Redis, where one script reaches one session: all that a request asks for, or none."""

import asyncio
import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import replace

from carousel.errors import CarouselError, Overloaded, SessionExists, StoreUnavailable
from carousel.state.redis_deeds import Intent, RedisDeeds, Stage
from carousel.state.redis_endings import RedisEndings
from carousel.state.redis_index import Entry, RedisIndex
from carousel.state.redis_link import RedisLink
from carousel.state.redis_rows import flat, keys_of, read_row
from carousel.state.redis_terms import Terms
from carousel.state.redis_work import RedisWork
from carousel.state.store import DEED_SECONDS, Birth, Deed, Repeated, Row

_PAUSE_SECONDS = 0.5  # between two attempts to undo what a silent Redis may hold


class RedisBirths:
    """Creates sessions, and finishes or undoes what is half done."""

    def __init__(
        self,
        link: RedisLink,
        index: RedisIndex,
        deeds: RedisDeeds,
        endings: RedisEndings,
        terms: Terms,
        work: RedisWork,
    ) -> None:
        self._link = link
        self._index = index
        self._deeds = deeds
        self._endings = endings
        self._terms = terms
        self._work = work

    async def make(self, births: Sequence[Birth]) -> list[Row]:
        """Creates sessions without a deed. No other caller knows of them, so a cancelled call leaves none."""
        task = self._work.begin(self._make_all(births), "create")
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._work.begin(self._undo_after(task, births), "undo")
            raise

    async def carry_out(self, births: Sequence[Birth], deed: Deed) -> list[Row]:
        """Creates the sessions once, however often and on whichever server the request comes. Raises Repeated when
        another request does this, or did."""
        while True:
            intent = await self._deeds.record(Intent(deed, tuple(births)))
            if intent.stage is Stage.UNDOING:
                await self._undo(intent.births, intent)
            elif intent.stage is Stage.DONE or intent.deed.fingerprint != deed.fingerprint:
                raise Repeated(intent.deed)
            elif (rows := await self._carry_out(intent)) is not None:
                return rows

    async def is_done(self, intent: Intent) -> bool:
        """Returns whether all sessions exist or have existed; this does not change later."""
        if intent.stage is not Stage.PENDING:
            return intent.stage is Stage.DONE
        targets, owner = intent.deed.targets, intent.deed.owner
        found = await asyncio.gather(*(self._endings.read((owner, session_id)) for session_id, _ in targets))
        for (_, incarnation), one in zip(targets, found, strict=True):
            is_it = one is not None and one.incarnation == incarnation
            if not is_it if intent.births else is_it and isinstance(one, Row):
                return False
        return await self._settle(intent, Stage.DONE)

    async def _make_all(self, births: Sequence[Birth]) -> list[Row]:
        try:
            return [row for row in await self._make_each(births) if row is not None]
        except StoreUnavailable:
            self._undo_later(births, None)
            raise
        except CarouselError:
            await self._withdraw(births, None)
            raise

    async def _carry_out(self, intent: Intent) -> list[Row] | None:
        """Returns None when another server has finished or undone it meanwhile."""
        try:
            rows = await self._make_each(intent.births)
        except StoreUnavailable:
            self._undo_later(intent.births, intent)
            raise
        except CarouselError:
            if await self._withdraw(intent.births, intent):
                raise
            return None
        if not await self._settle(intent, Stage.DONE):
            await self._withdraw(intent.births, None)
            return None
        if None in rows:  # created by a server that died, and ended since
            raise Repeated(intent.deed)
        return [row for row in rows if row is not None]

    async def _make_each(self, births: Sequence[Birth]) -> list[Row | None]:
        """Returns None for a session that was created before and has ended. Raises a refusal, or an error that may
        leave some sessions created."""
        moments = await self._index.add(
            [Entry.of(birth) for birth in births], min(self._terms.idle, self._terms.absolute)
        )
        works = (self._make(birth, moment) for birth, moment in zip(births, moments, strict=True))
        outcomes = await asyncio.gather(*works, return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        refusals = [failure for failure in failures if isinstance(failure, SessionExists | Overloaded)]
        for failure in refusals + failures:
            raise failure
        return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]

    async def _make(self, birth: Birth, created_at: str) -> Row | None:
        key = (birth.owner, birth.id)
        facts = (str(birth.incarnation), secrets.token_hex(8), self._terms.idle, self._terms.absolute)
        arguments = (*facts, self._terms.ending, created_at, birth.owner, birth.position, *flat(birth.parts))
        while True:
            kind, *reply = await self._link.change("create", keys_of(key), arguments, self._terms.patience_seconds)
            match kind:
                case b"ok":
                    return read_row(birth.id, reply[0])
                case b"ended":
                    return None
                case b"due":
                    await self._endings.expire(read_row(birth.id, reply[0]))
                case _:
                    raise SessionExists(f"session {birth.id} exists already")

    async def _withdraw(self, births: Sequence[Birth], intent: Intent | None) -> bool:
        """Undoes the births now, or later if Redis is silent. Returns False when another server has finished them
        meanwhile."""
        try:
            return await self._undo(births, intent)
        except CarouselError:
            self._undo_later(births, intent)
            return True

    def _undo_later(self, births: Sequence[Birth], intent: Intent | None) -> None:
        """Undoes the births when Redis answers, unless a retry has finished them by then. A single session is never
        half created."""
        if len(births) > 1:
            self._work.run_beside(self._keep_undoing(births, intent), "undo")

    async def _keep_undoing(self, births: Sequence[Birth], intent: Intent | None) -> None:
        for _ in range(int(DEED_SECONDS / _PAUSE_SECONDS)):
            await asyncio.sleep(_PAUSE_SECONDS)
            with contextlib.suppress(CarouselError):
                await self._undo(births, intent)
                return

    async def _undo_after(self, task: "asyncio.Task[list[Row]]", births: Sequence[Birth]) -> None:
        await asyncio.wait([task])
        if task.exception() is None:
            await self._withdraw(births, None)

    async def _undo(self, births: Sequence[Birth], intent: Intent | None) -> bool:
        """Removes the sessions that are still unused; used ones stay. Returns False when another server has finished
        the births."""
        if intent is not None and not await self._settle(intent, Stage.UNDOING):
            return False
        await asyncio.gather(*(self._endings.undo((birth.owner, birth.id), birth.incarnation) for birth in births))
        left = await self._endings.match([Entry.of(birth) for birth in births])
        await self._index.remove([entry for entry, row in left.items() if row is None])
        if intent is not None:
            await self._settle(replace(intent, stage=Stage.UNDOING), None)
        return True

    async def _settle(self, intent: Intent, stage: Stage | None) -> bool:
        return await self._deeds.settle(intent, stage, self._terms.patience_seconds)
