"""What each owner may use: the limits of all, and in their place the quotas of principals; among them rates.

A rate is a bucket of one second. Requests take from it. Tokens are counted when the model has read them, so they
become a debt, and the next request waits until it is paid. Decides only. Rates belong to one event loop; any thread may
ask for limits.
"""

import time
from collections.abc import Callable, Iterable, Mapping

from carousel.errors import Overloaded
from carousel.records import record
from carousel.shares import OwnerLimits

_BURST_SECONDS = 1.0


@record(frozen=True, slots=True)
class Quota:
    """What one principal may use, for the owner whose sessions it sees. None: the limits of all; rates have none."""

    principal: str
    owner: str
    limits: OwnerLimits
    requests_per_second: float | None = None
    tokens_per_second: float | None = None


class _Account:
    """One owner's quota, and what it owes: the moments at which its buckets are full again."""

    __slots__ = ("quota", "requests_full_at", "tokens_full_at")

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self.requests_full_at = 0.0
        self.tokens_full_at = 0.0

    def inherit(self, old: "_Account", now: float) -> None:
        """Takes over what is owed, as an amount: at another rate it takes another time to pay."""
        mine, other = self.quota, old.quota
        scale = _ratio(other.requests_per_second, mine.requests_per_second)
        self.requests_full_at = now + max(0.0, old.requests_full_at - now) * scale
        scale = _ratio(other.tokens_per_second, mine.tokens_per_second)
        self.tokens_full_at = now + max(0.0, old.tokens_full_at - now) * scale


class Quotas:
    """The limits and rates of all owners."""

    def __init__(
        self,
        of_all: OwnerLimits,
        used: Callable[[str, int], None] = lambda principal, num_tokens: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`used` hears of the tokens that a principal's calls have read, with its name."""
        self._of_all = of_all
        self._used = used
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self.own: Mapping[str, OwnerLimits] = {}

    def __repr__(self) -> str:
        return f"Quotas({len(self._accounts)} owners)"

    @property
    def counts(self) -> bool:
        """Whether there is anybody whose tokens count."""
        return bool(self._accounts)

    def of(self, owner: str) -> OwnerLimits:
        return self.own.get(owner, self._of_all)

    def replace(self, quotas: Iterable[Quota]) -> None:
        """Takes these quotas instead of those before. What an owner owes stays."""
        before, self._accounts = self._accounts, {quota.owner: _Account(quota) for quota in quotas}
        for owner, account in self._accounts.items():
            if (old := before.get(owner)) is not None:
                account.inherit(old, self._clock())
        self.own = {owner: one.quota.limits.over(self._of_all) for owner, one in self._accounts.items()}

    def take_request(self, owner: str) -> None:
        """Counts one request. Raises Overloaded, with the seconds to wait, when the owner makes too many or owes
        tokens; a refused request counts nothing."""
        account = self._accounts.get(owner)
        if account is None:
            return
        now = self._clock()
        if account.quota.tokens_per_second is not None:
            _check("max_tokens_per_second", account.tokens_full_at - now - _BURST_SECONDS)
        rate = account.quota.requests_per_second
        if rate is not None:
            full_at = max(account.requests_full_at, now) + 1 / rate
            _check("max_requests_per_second", full_at - now - max(_BURST_SECONDS, 1 / rate))
            account.requests_full_at = full_at

    def charge(self, owner: str, num_tokens: int) -> None:
        """Counts tokens that the model has read for the owner."""
        account = self._accounts.get(owner)
        if account is None:
            return
        rate = account.quota.tokens_per_second
        if rate is not None:
            account.tokens_full_at = max(account.tokens_full_at, self._clock()) + num_tokens / rate
        self._used(account.quota.principal, num_tokens)


def _ratio(old: float | None, new: float | None) -> float:
    return 0.0 if old is None or new is None else old / new


def _check(limit: str, wait_seconds: float) -> None:
    if wait_seconds > 1e-9:  # less is rounding
        raise Overloaded(f"the caller's {limit} is used up", limit=limit, retry_seconds=wait_seconds)
