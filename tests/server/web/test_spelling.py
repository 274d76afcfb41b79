"""A long list is written item by item, so that other threads run meanwhile."""

import json
import threading
import time

import pytest

from carousel.web.spelling import write_listing


@pytest.mark.parametrize("items", [[], [{"text": 'a "quoted" ü'}], [{"id": 1}, {"id": 2, "inner": [{"x": None}]}]])
def test_a_listing_is_what_json_dumps_writes(items: list[dict[str, object]]) -> None:
    rest = {"position": 3, "session_id": "one"}
    assert write_listing("tokens", items, rest) == json.dumps({"tokens": items} | rest).encode()


def test_other_threads_run_while_a_listing_is_written() -> None:
    """In one call of json.dumps, they would wait for nearly all of it."""
    items = [{"id": 5, "text": "&", "log_probability": -14.285192489624023, "rank": 1975}] * 200_000
    shares = []
    for _ in range(3):
        thread = threading.Thread(target=write_listing, args=("tokens", items, {"position": 1}))
        began = before = time.perf_counter()
        longest = 0.0
        thread.start()
        while thread.is_alive():
            thread.join(0.001)
            now = time.perf_counter()
            longest, before = max(longest, now - before), now
        shares.append(longest / (before - began))
    assert min(shares) < 0.3
