"""Work that streams bring to the event loop, let in a little in each of its rounds and shared among owners.

Whoever does not come through here (a Predict, a health check) then never finds a round that is full of others' work,
and of those who do, an owner with eighty streams has no more than one with one.
"""

import asyncio
import collections
import heapq
import itertools

_ROUND_COST = 32.0  # of all pieces that one round lets in, about; the unit is a plain item of PredictMany, 10 us
_MANY_ENDS = 1024


class Gate:
    """Fair queueing by start times: an owner's next piece starts where his last one ended, and the earliest start goes
    first; so he who has had nothing for a while waits for one piece of each other owner at most. Belongs to the event
    loop in which it is first used."""

    def __init__(self, round_cost: float = _ROUND_COST) -> None:
        self._round_cost = round_cost
        self._left = round_cost  # of this round
        self._now = 0.0  # where the last piece started
        self._ends: dict[str, float] = {}  # of each owner's last piece; forgotten in a round without work
        self._most_ends = _MANY_ENDS
        self._waiting: dict[str, collections.deque[tuple[float, asyncio.Future[None]]]] = {}
        self._starts: list[tuple[float, int, str]] = []  # a heap: of each waiting owner, the earliest it can be
        self._numbers = itertools.count()
        self._is_round_due = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        num_waiting = sum(map(len, self._waiting.values()))
        return f"Gate({num_waiting} pieces of {len(self._waiting)} owners wait)"

    async def enter(self, owner: str, cost: float) -> None:
        """Until a piece of work of about this cost may be done."""
        if not self._starts and self._left > 0:
            return self._admit(owner, cost)
        waiter: asyncio.Future[None] = self._running_loop().create_future()
        pieces = self._waiting.get(owner)
        if pieces is None:
            pieces = self._waiting[owner] = collections.deque()
            self._line_up(owner)
        pieces.append((cost, waiter))
        self._want_round()
        await waiter

    def charge(self, owner: str, cost: float) -> None:
        """Work that was done beyond what was let in, or, when negative, that was let in and not done."""
        self._ends[owner] = self._start(owner) + cost
        self._left -= cost
        self._want_round()

    def _start(self, owner: str) -> float:
        """Of his next piece."""
        return max(self._ends.get(owner, 0.0), self._now)

    def _admit(self, owner: str, cost: float) -> None:
        self._now = self._start(owner)
        self.charge(owner, cost)

    def _line_up(self, owner: str) -> None:
        heapq.heappush(self._starts, (self._start(owner), next(self._numbers), owner))

    def _begin_round(self) -> None:
        is_idle = self._left >= self._round_cost and not self._starts
        self._left = self._round_cost
        self._is_round_due = False
        if is_idle:
            self._ends.clear()
            self._now = 0.0
            return
        self._forget_ends()
        while self._starts and self._left > 0:
            self._let_in()
        self._want_round()

    def _let_in(self) -> None:
        """The first piece of the owner whose start is the earliest."""
        start, _, owner = heapq.heappop(self._starts)
        if self._ends.get(owner, 0.0) > start:  # he was charged more meanwhile
            return self._line_up(owner)
        cost, waiter = self._waiting[owner].popleft()
        if not waiter.done():  # else its caller has given up
            waiter.set_result(None)
            self._admit(owner, cost)
        if self._waiting[owner]:
            self._line_up(owner)
        else:
            del self._waiting[owner]

    def _forget_ends(self) -> None:
        """Of those who could start at once."""
        if len(self._ends) > self._most_ends:
            self._ends = {owner: end for owner, end in self._ends.items() if end > self._now}
            self._most_ends = _MANY_ENDS + 2 * len(self._ends)

    def _want_round(self) -> None:
        if not self._is_round_due:
            self._is_round_due = True
            self._running_loop().call_soon(self._begin_round)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        """Asked once: it is a system call."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop
