"""Work is given out once, when it is ready, and processes end with their parent."""

import os
import signal
from concurrent.futures import Future
from typing import Any

import pytest
from tests.training.studies.comparison.conftest import InlineExecutor

from carousel_training.errors import TrainingError
from carousel_training.studies.comparison.workers import Stopped, count_cores, run_all, worker_processes


class HeldExecutor(InlineExecutor):
    """Keeps what it is given; `end` ends the first of it."""

    def __init__(self) -> None:
        self.held: list[tuple[Future[Any], int]] = []
        self.most = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.held.append((future, fn(*args, **kwargs)))
        self.most = max(self.most, len(self.held))
        return future

    def end(self) -> bool:
        if self.held:
            future, value = self.held.pop(0)
            future.set_result(value)
        return False


def test_everything_runs_once_and_two_at_a_time() -> None:
    """Five items, each ready from the start, two places."""
    left, found, executor = [1, 2, 3, 4, 5], dict[int, int](), HeldExecutor()

    def done(work: int, value: int) -> None:
        left.remove(work)
        found[work] = value

    run_all(executor, 2, lambda work: 10 * work, lambda busy: list(left), done, executor.end)
    assert found == {1: 10, 2: 20, 3: 30, 4: 40, 5: 50}
    assert executor.most == 2


def test_what_becomes_ready_later_runs_later() -> None:
    """Each item is ready when the one before it is done."""
    order: list[int] = []
    run_all(
        InlineExecutor(),
        2,
        lambda work: work,
        lambda busy: [len(order)] if len(order) < 4 else [],
        lambda work, value: order.append(work),
        lambda: False,
    )
    assert order == [0, 1, 2, 3]


def test_an_interruption_stops_at_once() -> None:
    """An interruption also stops running work."""
    executor = HeldExecutor()
    with pytest.raises(Stopped):
        run_all(executor, 1, lambda work: work, lambda busy: [1], lambda work, value: None, lambda: True)
    assert executor.held


def kill_itself(work: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return work


def test_a_killed_process_is_said_to_be_one() -> None:
    """The sentence says that the same command continues."""
    with pytest.raises(TrainingError, match="the same command continues"), worker_processes(1) as executor:
        run_all(executor, 1, kill_itself, lambda busy: [1], lambda work, value: None, lambda: False)


def test_there_is_a_core() -> None:
    """This test runs on one."""
    assert count_cores() >= 1
