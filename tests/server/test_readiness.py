"""Readiness shows the state of the session store, reports each change once, and shows no secret."""

from typing import Any

import pytest
import structlog
from tests.fakes import FakeClock

from carousel.errors import StoreUnavailable
from carousel.readiness import Readiness, StoreHealth


class Watched:
    """A store's health, with what was reported and logged."""

    def __init__(self) -> None:
        self.told: list[bool] = []
        self.clock = FakeClock(100.0)
        self.health = StoreHealth(self.told.append, self.clock)


def trouble(cause: Exception | None = None) -> StoreUnavailable:
    error = StoreUnavailable("redis://:hunter2@host does not answer")
    error.__cause__ = cause
    return error


def test_a_store_is_up_until_something_says_otherwise() -> None:
    """This is reported at once, so the gauge is there from the start."""
    watched = Watched()
    assert watched.health.is_up
    assert watched.told == [True]


def test_each_change_is_told_and_logged_once() -> None:
    """The probe may fail often; the report has the type of the cause and never its text."""
    watched = Watched()
    with structlog.testing.capture_logs() as lines:
        for _ in range(5):
            watched.health.probe_failed(trouble(ConnectionError("hunter2")))
        assert (watched.health.is_up, watched.health.trouble) == (False, "ConnectionError")
        for _ in range(5):
            watched.health.probe_succeeded()
    assert watched.told == [True, False, True]
    assert [(line["log_level"], line.get("trouble")) for line in lines] == [
        ("warning", "ConnectionError"),
        ("info", None),
    ]
    watched.health.probe_failed(trouble())
    assert watched.health.trouble == "StoreUnavailable"


def test_calls_that_fail_one_after_the_other_are_a_trouble() -> None:
    """A store reads but cannot write: the probe's success does not hide that, and a call's success ends it."""
    watched = Watched()
    for _ in range(2):
        watched.health.call_failed(trouble())
    assert watched.health.is_up
    watched.health.call_succeeded()
    for _ in range(3):
        watched.health.call_failed(trouble())
    assert watched.health.trouble == "calls fail"
    watched.health.probe_succeeded()
    assert not watched.health.is_up
    watched.health.call_succeeded()
    assert watched.health.is_up
    assert watched.told == [True, False, True]


def test_when_nobody_calls_the_probe_decides_after_a_while() -> None:
    """It decides after ten seconds without a failed call."""
    watched = Watched()
    for _ in range(3):
        watched.health.call_failed(trouble())
    watched.clock.advance(10)
    watched.health.probe_succeeded()
    assert not watched.health.is_up
    watched.clock.advance(0.1)
    watched.health.probe_succeeded()
    assert watched.health.is_up


def test_a_calls_success_does_not_hide_a_failing_probe() -> None:
    """The call may have been under way before."""
    watched = Watched()
    watched.health.probe_failed(trouble())
    watched.health.call_failed(trouble())
    watched.health.call_succeeded()
    assert not watched.health.is_up


@pytest.mark.parametrize(
    ("is_serving", "is_up", "needs_store", "is_ready", "text"),
    [
        (True, True, False, True, "ready"),
        (True, True, True, True, "ready"),
        (False, True, False, False, "not ready"),
        (True, False, False, True, "ready; the session store does not answer: ConnectionError"),
        (True, False, True, False, "not ready; the session store does not answer: ConnectionError"),
        (False, False, False, False, "not ready; the session store does not answer: ConnectionError"),
    ],
)
def test_readiness_is_serving_and_where_wanted_the_store(
    is_serving: bool, is_up: bool, needs_store: bool, is_ready: bool, text: str
) -> None:
    """By default, a server without its store stays ready and reports the trouble."""
    watched = Watched()
    readiness = Readiness(watched.health, needs_store=needs_store)
    assert not readiness.is_ready
    readiness.is_serving = is_serving
    if not is_up:
        watched.health.probe_failed(trouble(ConnectionError("hunter2")))
    found: tuple[Any, ...] = (readiness.is_ready, readiness.text)
    assert found == (is_ready, text)
