"""How often somebody may show what is wrong. What is right is never held up by it."""

import collections
import time
from collections.abc import Callable

_MAX_HOSTS = 4096


class WrongAttempts:
    """A bucket for each host: so many at once, and then one in so many seconds. The hosts that were wrong longest ago
    are forgotten first."""

    def __init__(self, burst: int = 20, seconds_each: float = 3.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst, self._seconds_each, self._clock = burst, seconds_each, clock
        self._spent: collections.OrderedDict[str, float] = collections.OrderedDict()  # until when it takes to be full

    def __repr__(self) -> str:
        return f"WrongAttempts({len(self._spent)} hosts)"

    def wait_seconds(self, host: str) -> float:
        """Counts one attempt. Returns 0 where it is within the rate, else after how many seconds one is."""
        now = self._clock()
        full_at = max(self._spent.pop(host, now), now)
        wait = full_at + self._seconds_each - now - self._burst * self._seconds_each
        self._spent[host] = full_at + self._seconds_each if wait <= 0 else full_at
        while len(self._spent) > _MAX_HOSTS:
            self._spent.popitem(last=False)
        return max(wait, 0.0)


def host_of(peer: str) -> str:
    """The host of an address as gRPC writes it: `ipv4:10.0.0.1:4242` and `ipv6:%5B::1%5D:4242` without their ports."""
    return peer.rpartition(":")[0] if peer.startswith(("ipv4:", "ipv6:")) else peer
