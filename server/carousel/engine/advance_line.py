"""The waiting tokens of held sequences, one line per owner. Decisions only."""

from carousel.engine.columns import Advances, Waiter
from carousel.errors import Overloaded
from carousel.shares import LimitsByOwner

_RETRY_SECONDS = 1.0


class AdvanceLine:
    """The lines of all owners. A step takes at most `max_rows` tokens, a fair share per owner; the owner that waited
    longest comes first. An owner with a thousand waiting tokens does not slow an owner with one. A sequence has at most
    one token here."""

    def __init__(self, max_rows: int, limits: LimitsByOwner) -> None:
        self._max_rows = max_rows
        self._limits = limits
        self._by_owner: dict[str, Advances] = {}  # the owner that waited longest first
        self.num_waiting = 0

    def add(self, owner: str, row: int, next_row: int, token_id: int, num_candidates: int, waiter: Waiter) -> None:
        """Adds a token. Raises Overloaded when the owner has the maximum number waiting."""
        waiting = self._by_owner.get(owner)
        if waiting is None:
            waiting = self._by_owner[owner] = Advances()
        elif (most := self._limits.of(owner).max_queued_turns) is not None and len(waiting) >= most:
            text = f"{len(waiting)} turns of this caller are waiting already"
            raise Overloaded(text, limit="max_queued_turns_per_owner", retry_seconds=_RETRY_SECONDS)
        waiting.add(row, next_row, token_id, num_candidates, waiter)
        self.num_waiting += 1

    def pick(self, max_rows: int | None = None) -> Advances | None:
        """Takes the tokens for the next step; `max_rows` lowers the bound."""
        if not self.num_waiting:
            return None
        count = self._max_rows if max_rows is None else min(max_rows, self._max_rows)
        taken = self._pick_first(count) if len(self._by_owner) == 1 else self._pick_shares(count)
        self.num_waiting -= len(taken)
        return taken

    def clear(self) -> list[Waiter]:
        """Removes all tokens. Returns their waiters."""
        waiters = [waiter for waiting in self._by_owner.values() for waiter in waiting.waiters]
        self._by_owner.clear()
        self.num_waiting = 0
        return waiters

    def _pick_first(self, count: int) -> Advances:
        """Takes tokens of the only owner."""
        owner, waiting = next(iter(self._by_owner.items()))
        count = min(count, self._max_of(owner))
        if len(waiting) <= count:
            del self._by_owner[owner]
            return waiting
        taken = Advances()
        self._move(owner, count, taken)
        return taken

    def _pick_shares(self, count: int) -> Advances:
        taken = Advances()
        share = max(1, count // len(self._by_owner))
        most = {owner: min(self._max_of(owner), len(self._by_owner[owner])) for owner in list(self._by_owner)[:count]}
        counts = {owner: min(share, most[owner]) for owner in most}
        num_left = count - sum(counts.values())
        for owner in counts:  # adds what the others leave
            more = min(num_left, most[owner] - counts[owner])
            counts[owner] += more
            num_left -= more
        for owner, num_taken in counts.items():
            self._move(owner, num_taken, taken)
        return taken

    def _max_of(self, owner: str) -> int:
        return self._limits.of(owner).max_lanes or self._max_rows

    def _move(self, owner: str, count: int, taken: Advances) -> None:
        """Takes the owner's first tokens; the rest waits behind the other owners."""
        waiting = self._by_owner.pop(owner)
        taken.extend(waiting, 0, count)
        if len(waiting) > count:
            self._by_owner[owner] = waiting.without_first(count)
