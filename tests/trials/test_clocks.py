"""A program can see a shifted time of day with unchanged durations."""

import os
import subprocess
import sys
import time

import pytest
from trials.clocks import find_library, shifted_clock

_PROGRAM = """
import threading, time
began = time.monotonic()
threading.Event().wait(0.1)
print(time.time(), time.monotonic(), began)
"""


@pytest.mark.skipif(find_library() is None, reason="libfaketime is not installed (Debian package faketime)")
def test_the_time_of_day_is_ahead_and_durations_are_not() -> None:
    """Ten minutes ahead; the monotonic clock is the machine's."""
    environment = os.environ | shifted_clock(600)
    answer = subprocess.run([sys.executable, "-c", _PROGRAM], env=environment, capture_output=True, check=True)
    time_of_day, now, began = map(float, answer.stdout.split())
    assert 590 < time_of_day - time.time() < 601
    assert 0.1 <= now - began < 5
    assert 0 <= time.monotonic() - now < 60


def test_a_clock_that_is_right_needs_nothing() -> None:
    """It needs no library and no environment."""
    assert shifted_clock(0) == {}
