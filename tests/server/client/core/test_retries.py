"""When a call is retried, and after how long."""

import pytest

from carousel.client import Retries, ServerError
from carousel.client.core.retries import Attempts


def test_attempts_share_the_callers_time() -> None:
    """Each attempt gets the time that earlier ones have left."""
    now = [100.0]
    attempts = Attempts(Retries(), 10.0, clock=lambda: now[0], draw=lambda low, high: high)
    assert attempts.limit({"timeout_seconds": 10.0, "metadata": [("a", "b")]})["timeout_seconds"] == 10
    now[0] += 4
    assert attempts.limit({}) == {"timeout_seconds": 6.0}
    busy = ServerError("busy", code="RESOURCE_EXHAUSTED", retry_after_seconds=5.0)
    assert attempts.pause_after(busy) == 5.1
    with pytest.raises(ServerError, match="busy"):
        attempts.pause_after(ServerError("busy", code="RESOURCE_EXHAUSTED", retry_after_seconds=6.0))


def test_pauses_grow_to_their_bound() -> None:
    """The pause doubles each time, minus a random part of up to half."""
    attempts = Attempts(Retries(max_attempts=9), None, draw=lambda low, high: low)
    gone = ServerError("gone", code="UNAVAILABLE")
    assert [attempts.pause_after(gone) for _ in range(7)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 1.5]
    assert attempts.limit({}) == {}


@pytest.mark.parametrize(("first", "longest"), [(0.1, 3.0), (1e300, 1e301), (5e-324, 3.0)])
def test_pauses_stay_at_their_bound_for_ever(first: float, longest: float) -> None:
    """This also holds where a doubled pause would exceed a float."""
    attempts = Attempts(Retries(5000, first, longest), None, draw=lambda low, high: high)
    gone = ServerError("gone", code="UNAVAILABLE")
    assert [attempts.pause_after(gone) for _ in range(2000)][-1] == min(longest, first * 2.0**1023)


@pytest.mark.parametrize("wrong", [{"max_attempts": 0}, {"first_seconds": 0.0}, {"first_seconds": 5.0}])
def test_impossible_retries_are_refused(wrong: dict[str, float]) -> None:
    """The error names the option."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Retries(**wrong)  # type: ignore[arg-type]
