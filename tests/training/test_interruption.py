"""Signals become a flag."""

import os
import signal

import pytest

from carousel_training.interruption import catch_interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_sets_the_flag_and_handlers_come_back(number: signal.Signals) -> None:
    """Inside the block a signal sets the flag. Afterwards the earlier handlers are back."""
    before = signal.getsignal(number)
    with catch_interruption() as interruption:
        assert not interruption.is_requested
        os.kill(os.getpid(), number)
        assert interruption.is_requested
    assert signal.getsignal(number) == before


def test_a_second_signal_is_not_held_back() -> None:
    """A second Ctrl-C ends the process at once."""
    with catch_interruption() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.is_requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
