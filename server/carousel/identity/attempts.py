"""How often somebody may show what is wrong. What is right is never held up by it."""

import collections
import contextlib
import ipaddress
import re
import time
from collections.abc import Callable
from urllib.parse import unquote

_MAX_HOSTS = 4096
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052
_IPV6 = re.compile(r"\[([^]%]+)(?:%[^]]*)?\]:")  # a zone names an interface of this machine


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


def _network_of(address: ipaddress.IPv6Address) -> str:
    """What stands for an IPv4 address is that address."""
    is_translated = address.ipv4_mapped is not None or address in _TRANSLATED
    return str(address) if is_translated else str(ipaddress.ip_network((address, 64), strict=False))


def host_of(peer: str) -> str:
    """The host of an address as gRPC writes it: `ipv4:10.0.0.1:4242` without the port. Of `ipv6:%5B2001:db8::1%5D:4242`
    only the first 64 bits: a host chooses the others as it likes."""
    kind, _, address = peer.partition(":")
    if kind == "ipv4":
        return peer.rpartition(":")[0]
    if kind == "ipv6" and (match := _IPV6.match(unquote(address))) is not None:
        with contextlib.suppress(ValueError):
            return _network_of(ipaddress.IPv6Address(match[1]))
    return peer
