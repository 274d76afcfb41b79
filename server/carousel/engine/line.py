"""Which turn is next: turns wait for lanes, one line per owner. Decisions only.

A free lane goes to the owner with the fewest lanes; among equals, to the owner served the fewest tokens; within an
owner's line, to the first turn. An owner that comes, or comes back, starts level with the owners served now, so that no
owner gains a claim by staying away. With one owner, this is the order of arrival.
"""

import collections
import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from carousel.engine.jobs import Job
from carousel.errors import Overloaded
from carousel.shares import LimitsByOwner

_RETRY_SECONDS = 1.0
_MAX_REMEMBERED = 1024  # owners without turns that were served more than others


_Jobs = collections.OrderedDict[Job, None]


@dataclass(slots=True, eq=False)
class _Owner:
    """One owner's waiting and running turns."""

    name: str
    longs: _Jobs = field(default_factory=collections.OrderedDict)
    shorts: _Jobs = field(default_factory=collections.OrderedDict)
    num_lanes: int = 0
    num_short_lanes: int = 0
    num_served: int = 0  # tokens, counted when turns leave

    @property
    def num_queued(self) -> int:
        return len(self.longs) + len(self.shorts)

    @property
    def is_idle(self) -> bool:
        return not (self.longs or self.shorts or self.num_lanes or self.num_short_lanes)

    def first(self, *, of_short: bool) -> Job | None:
        """Returns the owner's first turn, or with `of_short` the first that may use a short lane."""
        jobs = self.shorts if of_short else self._jobs_of_first()
        return next(iter(jobs)) if jobs else None

    def newest(self) -> Job:
        ends = [next(reversed(jobs)) for jobs in (self.longs, self.shorts) if jobs]
        return max(ends, key=lambda job: job.number)

    def pop_first(self, count: int, *, of_short: bool) -> list[Job]:
        """Takes the first `count` turns, which must exist."""
        if of_short or not self.longs or not self.shorts:
            jobs = self.shorts if of_short else self.longs or self.shorts
            return [jobs.popitem(last=False)[0] for _ in range(count)]
        return [self._jobs_of_first().popitem(last=False)[0] for _ in range(count)]

    def _jobs_of_first(self) -> _Jobs:
        if not self.longs or not self.shorts:
            return self.longs or self.shorts
        return min(self.longs, self.shorts, key=lambda jobs: next(iter(jobs)).number)


class Line:
    """The waiting turns, at most `max_queued`. The scheduler must call `left` when an admitted turn leaves its lane."""

    def __init__(self, max_queued: int, limits: LimitsByOwner) -> None:
        self._max_queued = max_queued
        self._limits = limits
        self._owners: dict[str, _Owner] = {}
        self._waiting: dict[str, _Owner] = {}  # the owners with turns here
        self._num_remembered = 0
        self._level = 0  # the most tokens that an owner was served when a turn of it was admitted
        self.num_queued = 0
        self.num_short = 0  # queued turns that may use a short lane

    def check_room(self, name: str) -> None:
        """Raises Overloaded when a turn of that owner cannot wait here now. A full line still has room for an owner
        below its share: `add` pushes out another owner's turn."""
        found = self._limits.of(name).max_queued_turns
        max_own = self._max_queued if found is None else found
        if self.num_queued < max_own and self.num_queued < self._max_queued:
            return
        owner = self._waiting.get(name)
        num_own = 0 if owner is None else owner.num_queued
        if num_own >= max_own and max_own < self._max_queued:
            text = f"{num_own} turns of this caller are waiting already"
            raise Overloaded(text, limit="max_queued_turns_per_owner", retry_seconds=_RETRY_SECONDS)
        if self.num_queued >= self._max_queued:
            num_owners = len(self._waiting) + (owner is None)
            if (num_own + 1) * num_owners > self._max_queued:
                raise _full(self.num_queued)

    def add(self, job: Job) -> Job | None:
        """Adds a turn after `check_room`. Returns the turn that it pushed out, if any: the newest turn of the owner
        with the most."""
        pushed_out = self._push_out() if self.num_queued >= self._max_queued else None
        name = job.turn.owner
        owner = self._waiting.get(name) or self._arrive(name)
        if job.is_short:
            owner.shorts[job] = None
            self.num_short += 1
        else:
            owner.longs[job] = None
        self.num_queued += 1
        return pushed_out

    def remove(self, job: Job) -> bool:
        """Removes the turn. Returns whether it waited here."""
        owner = self._waiting.get(job.turn.owner)
        jobs = None if owner is None else owner.shorts if job.is_short else owner.longs
        if owner is None or jobs is None or job not in jobs:
            return False
        del jobs[job]
        self._note_gone([job], owner)
        self._forget_idle(job.turn.owner, owner)
        return True

    def admit(self, count: int, *, short: bool = False) -> list[Job]:
        """Takes up to `count` turns that get lanes now; with `short`, only turns that may use a short lane."""
        heap = [rank for owner in self._waiting.values() if (rank := self._rank(owner, short)) is not None]
        heapq.heapify(heap)
        taken: list[Job] = []
        while heap and len(taken) < count:
            owner = heap[0][-1]
            taken += self._admit(owner, count - len(taken) if len(heap) == 1 else 1, short)
            rank = self._rank(owner, short)
            if rank is None:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, rank)
        return taken

    def left(self, job: Job, short: bool) -> None:
        """Notes that an admitted turn has left its lane."""
        owner = self._owners[job.turn.owner]
        if short:
            owner.num_short_lanes -= 1
        else:
            owner.num_lanes -= 1
        turn = job.turn
        owner.num_served += max(1, job.position - turn.start.position)
        if not (owner.num_lanes or owner.longs or owner.shorts):
            self._forget_idle(turn.owner, owner)

    def _rank(self, owner: _Owner, short: bool) -> tuple[int, int, int, _Owner] | None:
        """Returns the owner's rank; lower is sooner. Returns None if it has no turn to run or no lane left. The turn's
        number breaks every tie."""
        job = owner.first(of_short=short) if self._num_allowed(owner) > 0 else None
        if job is None:
            return None
        return owner.num_short_lanes if short else owner.num_lanes, owner.num_served, job.number, owner

    def _num_allowed(self, owner: _Owner) -> int:
        max_lanes = self._limits.of(owner.name).max_lanes
        if max_lanes is None:
            return owner.num_queued
        return max_lanes - owner.num_lanes - owner.num_short_lanes

    def _admit(self, owner: _Owner, count: int, short: bool) -> list[Job]:
        """Takes the owner's first turns, at least one."""
        num_there = len(owner.shorts) if short else owner.num_queued
        jobs = owner.pop_first(min(count, num_there, self._num_allowed(owner)), of_short=short)
        self._note_gone(jobs, owner)
        if short:
            owner.num_short_lanes += len(jobs)
        else:
            owner.num_lanes += len(jobs)
        self._level = max(self._level, owner.num_served)
        return jobs

    def _push_out(self) -> Job:
        owner = max(self._waiting.values(), key=lambda one: one.num_queued)
        job = owner.newest()
        self.remove(job)
        return job

    def _note_gone(self, jobs: Sequence[Job], owner: _Owner) -> None:
        """Notes that the turns no longer wait."""
        self.num_queued -= len(jobs)
        self.num_short -= sum([job.is_short for job in jobs])
        if not owner.longs and not owner.shorts:
            del self._waiting[jobs[0].turn.owner]

    def _arrive(self, name: str) -> _Owner:
        owner = self._owners.get(name)
        if owner is None:
            owner = self._owners[name] = _Owner(name)
        elif owner.is_idle:
            self._num_remembered -= 1
        owner.num_served = max(owner.num_served, self._level)
        self._waiting[name] = owner
        return owner

    def _forget_idle(self, name: str, owner: _Owner) -> None:
        """Forgets an owner without turns, unless it was served more than the others."""
        if not owner.is_idle:
            return
        if owner.num_served <= self._level or self._num_remembered >= _MAX_REMEMBERED:
            del self._owners[name]
        else:
            self._num_remembered += 1


def _full(num_queued: int) -> Overloaded:
    return Overloaded(f"{num_queued} turns are waiting already", limit="max_queued_turns", retry_seconds=_RETRY_SECONDS)


def pushed_out(num_queued: int) -> Overloaded:
    """Returns the error for a turn that another owner's turn pushed out."""
    return _full(num_queued)
