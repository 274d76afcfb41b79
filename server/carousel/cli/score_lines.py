"""Scores a log line by line: many lines at once, results in the order of the lines, each as soon as possible.

The calling thread reads, because it may wait for a line that never comes; a second thread prints.
"""

import json
import math
import queue
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from carousel.client import Client, ScoreTotals, ServerError
from carousel.errors import CarouselError

_NUM_AT_ONCE = 16
_MAX_TRIES = 8

Result = dict[str, Any]


def score_lines(client: Client, lines: Iterable[str], top_g: int) -> None:
    """Prints a JSON line for each line.

    A line that the server refuses gets an `error` in its place, and CarouselError is raised after the last line; any
    other failure is raised at once.
    """
    printer = _Printer()
    with ThreadPoolExecutor(_NUM_AT_ONCE) as pool:
        printer.start()
        try:
            for number, line in enumerate(lines, 1):
                if printer.failure is not None:
                    break
                printer.results.put(pool.submit(_rate, client, number, line.rstrip("\r\n"), top_g))
        finally:
            printer.results.put(None)
            printer.join()
    if printer.failure is not None:
        raise printer.failure
    if printer.num_refused:
        raise CarouselError(f"{printer.num_refused} lines were refused")


class _Printer(threading.Thread):
    """Prints results in order. After a failure it only empties the queue, so that the reader does not block."""

    def __init__(self) -> None:
        super().__init__(name="printer")
        self.results: queue.Queue[Future[Result] | None] = queue.Queue(2 * _NUM_AT_ONCE)
        self.failure: BaseException | None = None
        self.num_refused = 0

    def run(self) -> None:
        while (future := self.results.get()) is not None:
            if self.failure is not None:
                future.cancel()
                continue
            try:
                result = future.result()
                self.num_refused += "error" in result
                print(json.dumps(result, ensure_ascii=False), flush=True)
            except BaseException as error:  # the reader's thread raises it
                self.failure = error


def _rate(client: Client, number: int, line: str, top_g: int) -> Result:
    for tries_left in reversed(range(_MAX_TRIES)):
        try:
            return {"line": number, **_summarise(client, line, top_g), "text": line}
        except ServerError as error:
            if error.code == "INVALID_ARGUMENT":
                return {"line": number, "error": str(error), "text": line}
            if error.retry_after_seconds is None or not tries_left:
                raise
            time.sleep(error.retry_after_seconds)
    raise AssertionError("the last try returns or raises")


def _summarise(client: Client, line: str, top_g: int) -> Result:
    worst_rank, totals = 0, ScoreTotals(0, 0.0, 1.0, 0, 0)
    for piece in client.score(line, top_g=top_g):
        worst_rank = max([worst_rank, *(token.rank for token in piece.tokens)])
        totals = piece.totals or totals
    nats = abs(totals.log_probability)  # no minus zero for an empty line
    mean = nats / max(totals.num_tokens, 1)
    return {
        "num_tokens": totals.num_tokens,
        "nats": round(nats, 4),
        "nats_per_token": round(mean, 4),
        "bits_per_token": round(mean / math.log(2), 4),
        "num_hits": totals.num_hits,
        "worst_rank": worst_rank,
    }
