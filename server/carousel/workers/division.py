"""What one of several workers may use: what bounds a process is divided, so that all together keep within the settings.

The bounds of a request, a stream, a connection or a session stay as they are: one worker at a time has each of these.
Those of sessions are kept by the store, for all workers together.
"""

import os
from typing import Any

from carousel.settings import Settings

DIVIDED = (  # rounded up
    "max_lanes",
    "max_short_lanes",
    "max_queued_turns",
    "max_streams",
    "reserved_streams",
    "max_connections",
    "max_carried_bytes",
    "max_streams_per_owner",
    "max_queued_turns_per_owner",
    "max_lanes_per_owner",
)
_MIN_CARRIED_BYTES = 2**16  # the least that the setting takes


def divide(settings: Settings, num_cores: int | None = None) -> dict[str, str]:
    """Returns the settings of each worker that differ from those of all, as a command line gives them. `num_cores` are
    those that the process may use."""
    num_workers = settings.workers
    given: dict[str, Any] = dict(settings)
    shares = {name: -(-given[name] // num_workers) for name in DIVIDED if given[name] is not None}
    shares["max_carried_bytes"] = max(shares["max_carried_bytes"], _MIN_CARRIED_BYTES)
    if settings.num_threads == 0:  # onnxruntime would take all cores for each worker
        shares["num_threads"] = max(1, (num_cores or len(os.sched_getaffinity(0))) // num_workers)
    return {name: str(value) for name, value in shares.items()} | {"workers": "1"}
