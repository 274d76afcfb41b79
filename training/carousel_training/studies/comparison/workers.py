"""Processes that train side by side, one thread each, and end with the process that started them, however it ends.

Small products gain less from a second thread than from a second training.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for_any
from typing import Any, TypeVar

from carousel_training.errors import TrainingError

POLL_SECONDS = 0.5
Work = TypeVar("Work")
Found = TypeVar("Found")


class Stopped(Exception):
    """The user asked to stop while trainings ran."""


def count_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def worker_processes(num_workers: int) -> Iterator[Executor]:
    """Gives an executor and ends its processes afterwards, also in the middle of a training.

    Raises TrainingError when one of them died.
    """
    context = multiprocessing.get_context("spawn")  # a fork would copy the thread pools of torch without their threads
    executor = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_begin_worker)
    try:
        yield executor
        executor.shutdown()
    except BrokenProcessPool as error:
        raise TrainingError("a training's process was killed; the same command continues") from error
    except BaseException:
        processes = list((getattr(executor, "_processes", None) or {}).values())
        executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        raise


def run_all(
    executor: Executor,
    num_workers: int,
    run: Callable[[Work], Found],
    ready: Callable[[frozenset[Work]], list[Work]],
    done: Callable[[Work, Found], None],
    is_interrupted: Callable[[], bool],
) -> None:
    """Runs the jobs of `ready` until there are none and all are done.

    Calls `ready` with the running jobs, and again after each end. Raises Stopped when interrupted.
    """
    running: dict[Future[Found], Work] = {}
    while True:
        busy = frozenset(running.values())
        waiting = [work for work in ready(busy) if work not in busy]
        for work in waiting[: num_workers - len(running)]:
            running[executor.submit(run, work)] = work
        if not running:
            return
        for future in _wait(running, is_interrupted):
            done(running.pop(future), future.result())


def _wait(running: dict[Future[Found], Any], is_interrupted: Callable[[], bool]) -> set[Future[Found]]:
    while True:
        if is_interrupted():
            raise Stopped
        finished, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        if finished:
            return finished


def _begin_worker() -> None:
    """Ignores Ctrl-C, which reaches all processes of a terminal; the parent alone decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait_for_any([sentinel])
    os._exit(1)
