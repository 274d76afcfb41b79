"""Admits streams' work to the event loop, a little in each round of the loop and fairly among owners.

Calls that do not pass this gate (a Predict, a health check) therefore never find a round full of other work. Among
those that do, an owner with eighty streams gets no more than an owner with one.
"""

import asyncio
import collections
import heapq
import itertools

_ROUND_COST = 32.0  # of all work in one round, about; the unit is a plain item of PredictMany, 10 us
_MANY_ENDS = 1024


class Gate:
    """Start-time fair queueing. An owner's next piece starts where its last one ended, and the earliest start goes
    first. An owner that had no work for a while waits for at most one piece of each other owner. Belongs to the event
    loop in which it is first used."""

    def __init__(self, round_cost: float = _ROUND_COST) -> None:
        self._round_cost = round_cost
        self._left = round_cost  # of this round
        self._now = 0.0  # where the last piece started
        self._ends: dict[str, float] = {}  # of each owner's last piece; forgotten in a round without work
        self._most_ends = _MANY_ENDS
        self._waiting: dict[str, collections.deque[tuple[float, asyncio.Future[None]]]] = {}
        self._starts: list[tuple[float, int, str]] = []  # a heap: a lower bound for each waiting owner
        self._numbers = itertools.count()
        self._is_round_due = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        num_waiting = sum(map(len, self._waiting.values()))
        return f"Gate({num_waiting} pieces of {len(self._waiting)} owners wait)"

    async def enter(self, owner: str, cost: float) -> None:
        """Waits until a piece of work of about this cost may run."""
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
        """Charges work beyond what was admitted. A negative cost is work that was admitted and not done."""
        self._ends[owner] = self._start(owner) + cost
        self._left -= cost
        self._want_round()

    def _start(self, owner: str) -> float:
        """Returns the start of the owner's next piece."""
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
        """Admits the first piece of the owner with the earliest start."""
        start, _, owner = heapq.heappop(self._starts)
        if self._ends.get(owner, 0.0) > start:  # the owner was charged more meanwhile
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
        """Forgets the owners that could start at once."""
        if len(self._ends) > self._most_ends:
            self._ends = {owner: end for owner, end in self._ends.items() if end > self._now}
            self._most_ends = _MANY_ENDS + 2 * len(self._ends)

    def _want_round(self) -> None:
        if not self._is_round_due:
            self._is_round_due = True
            self._running_loop().call_soon(self._begin_round)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        """Returns the running loop. Looks it up once, because that is a system call."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop
