"""Some of the metrics as one JSON object, for a page that shows how the server does. Counters only rise: a reader takes
the difference of two answers. Latencies come as the buckets of their histograms.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from prometheus_client.registry import Collector

TellFigures = Callable[[], Awaitable[Mapping[str, Any]]]
_NUMBERS = {
    "carousel_consumed_tokens_total": "consumed_tokens",
    "carousel_generated_tokens_total": "generated_tokens",
    "carousel_busy_lanes": "busy_lanes",
    "carousel_queued_turns": "queued_turns",
    "carousel_live_sessions": "live_sessions",
    "carousel_session_bytes": "session_bytes",
    "carousel_held_sessions": "held_sessions",
    "carousel_store_up": "store_up",
    "carousel_requests_total": "requests",
    "carousel_refusals_total": "refusals",
    "process_resident_memory_bytes": "memory_bytes",
}
_START = "process_start_time_seconds"
_HISTOGRAMS = {
    "carousel_request_seconds": "request_seconds",
    "carousel_time_to_first_token_seconds": "time_to_first_token_seconds",
    "carousel_step_seconds": "step_seconds",
}


def read_figures(registry: Collector) -> dict[str, Any]:
    """Returns sums over all labels, of several processes together. `limits` has what the settings allow, by the
    setting's name. A histogram is a list of [upper bound, count up to there] with null for no bound."""
    numbers = dict.fromkeys(_NUMBERS.values(), 0.0)
    histograms: dict[str, dict[str, float]] = {name: {} for name in _HISTOGRAMS.values()}
    limits: dict[str, float] = {}
    start_time = time.time()  # of the oldest process
    for family in registry.collect():
        for sample in family.samples:
            if sample.name == _START:
                start_time = min(start_time, sample.value)
            elif name := _NUMBERS.get(sample.name):
                numbers[name] += sample.value
            elif sample.name == "carousel_limit":
                limits[sample.labels["name"]] = sample.value
            elif name := _HISTOGRAMS.get(sample.name.removesuffix("_bucket")):
                bound = sample.labels.get("le")
                if bound is not None:
                    histograms[name][bound] = histograms[name].get(bound, 0.0) + sample.value
    found = {name: _in_order(buckets.items()) for name, buckets in histograms.items()}
    return {"time": time.time(), "start_time": start_time, **numbers, "limits": limits, "histograms": found}


def _in_order(buckets: Iterable[tuple[str, float]]) -> list[tuple[float | None, float]]:
    rows = sorted((float(bound), count) for bound, count in buckets)
    return [(None if bound == float("inf") else bound, count) for bound, count in rows]
