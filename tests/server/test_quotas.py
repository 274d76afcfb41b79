"""An owner with a quota gets what it says: limits of its own, so many requests, and so many tokens that it owes."""

import pytest

from carousel.errors import Overloaded
from carousel.quotas import Quota, Quotas
from carousel.shares import OwnerLimits

ALL = OwnerLimits(max_sessions=10, max_lanes=4)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(clock: Clock, requests: float | None = None, tokens: float | None = None) -> Quotas:
    quotas = Quotas(ALL, clock=clock)
    quotas.replace([Quota("a", "ann", OwnerLimits(), requests, tokens)])
    return quotas


def refusal(quotas: Quotas, owner: str = "ann") -> tuple[str, float]:
    """Returns the limit and the seconds to wait."""
    with pytest.raises(Overloaded) as told:
        quotas.take_request(owner)
    return told.value.limit, round(told.value.retry_seconds, 6)


def test_a_quota_stands_in_place_of_the_limits_of_all(clock: Clock) -> None:
    """What it does not state stays; others keep theirs."""
    quotas = Quotas(ALL, clock=clock)
    quotas.replace([Quota("a", "ann", OwnerLimits(max_sessions=50, max_calls=2))])
    assert quotas.of("ann") == OwnerLimits(max_sessions=50, max_lanes=4, max_calls=2)
    assert quotas.of("bob") == ALL
    assert list(quotas.own) == ["ann"]
    quotas.replace([])
    assert quotas.of("ann") == ALL


def test_requests_come_at_their_rate(clock: Clock) -> None:
    """A second's worth at once, then one after the other; who waits as told gets in, and not before."""
    quotas = make(clock, requests=4)
    for _ in range(4):
        quotas.take_request("ann")
    limit, wait = refusal(quotas)
    assert (limit, wait) == ("max_requests_per_second", 0.25)
    clock.now += 0.2
    assert refusal(quotas)[1] == pytest.approx(0.05)
    clock.now += 0.05
    quotas.take_request("ann")
    refusal(quotas)
    clock.now += 100  # no more than a second's worth is saved up
    for _ in range(4):
        quotas.take_request("ann")
    refusal(quotas)


def test_less_than_one_request_a_second(clock: Clock) -> None:
    """One, and the next when its time has come."""
    quotas = make(clock, requests=0.1)
    quotas.take_request("ann")
    assert refusal(quotas)[1] == 10
    clock.now += 10
    quotas.take_request("ann")


def test_tokens_are_a_debt(clock: Clock) -> None:
    """What was read is paid before the next request; a second's worth is free."""
    quotas = make(clock, tokens=100)
    quotas.take_request("ann")
    quotas.charge("ann", 100)
    quotas.take_request("ann")
    quotas.charge("ann", 450)
    assert refusal(quotas) == ("max_tokens_per_second", 4.5)
    clock.now += 4.5
    quotas.take_request("ann")
    quotas.charge("ann", 1)
    assert refusal(quotas)[1] == 0.01


def test_a_refused_request_takes_nothing(clock: Clock) -> None:
    """Who asks too often is not kept out for longer."""
    quotas = make(clock, requests=1, tokens=1)
    quotas.take_request("ann")
    for _ in range(1000):
        refusal(quotas)
    clock.now += 1
    quotas.take_request("ann")


def test_a_debt_outlives_a_change_of_the_file(clock: Clock) -> None:
    """As an amount: at a higher rate it is paid sooner. It is forgotten with the principal."""
    quotas = make(clock, tokens=10)
    quotas.charge("ann", 100)
    assert refusal(quotas)[1] == 9
    quotas.replace([Quota("a", "ann", OwnerLimits(), None, 1)])
    assert refusal(quotas)[1] == 99
    quotas.replace([Quota("a", "ann", OwnerLimits(), None, 1000)])
    quotas.take_request("ann")
    quotas.replace([])
    quotas.take_request("ann")


def test_who_has_no_quota_is_not_held_up(clock: Clock) -> None:
    """Neither others nor an owner with a quota that states no rate."""
    quotas = make(clock, requests=1)
    for _ in range(100):
        quotas.take_request("bob")
        quotas.charge("bob", 10**9)
    quotas = make(clock)
    for _ in range(100):
        quotas.take_request("ann")
        quotas.charge("ann", 10**9)


def test_a_clock_that_stands_still_or_goes_on_for_long(clock: Clock) -> None:
    """The least and the largest rates are no accident of arithmetic."""
    for rate in (1e-3, 1e9):
        quotas = make(clock, requests=rate, tokens=rate)
        quotas.take_request("ann")
        quotas.charge("ann", 2**40)
        _, wait = refusal(quotas)
        assert wait == pytest.approx(2**40 / rate - 1)


def test_tokens_are_told_by_principal(clock: Clock) -> None:
    """Of owners that are one; others are not counted."""
    told: list[tuple[str, int]] = []
    quotas = Quotas(ALL, lambda principal, num_tokens: told.append((principal, num_tokens)), clock)
    assert not quotas.counts
    quotas.replace([Quota("a", "ann", OwnerLimits())])
    assert quotas.counts
    quotas.charge("ann", 3)
    quotas.charge("bob", 4)
    assert told == [("a", 3)]
