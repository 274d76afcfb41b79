"""Load on a running server from a client process of its own (`clients/`), and what it cost the server."""

import json
import os
import subprocess
import sys
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.harness.server_process import ServerProcess

NUM_SESSIONS, MANY_SESSIONS = 64, 1000
WARM_UP_MESSAGES = 20  # of every stream, before the common start
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Load:
    """What the client does. `prompt_tokens` above 1 adds one more stream, whose times are not reported: it feeds a
    prompt of so many tokens after a third of the others' tokens."""

    kind: str
    num_streams: int = 1
    num_connections: int = 1
    num_tokens: int = 100  # or messages
    temperature: float = 0.0
    top_p: float = 1.0
    prompt_tokens: int = 1
    request_bytes: int = 50
    response_bytes: int = 250
    has_session: bool = True  # of `predict`; else the stream carries the state
    num_shared_streams: int = 2  # of `many`
    ca: str = ""  # the file that encrypted servers' certificates are checked by
    token: str = ""  # which says who calls

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Sent with every call of `predict`."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()


def put_load(address: str, load: Load) -> Any:
    """What the client process prints."""
    client = "texts" if load.kind.endswith("_text") else "streams"
    command = [sys.executable, "-m", f"bench.clients.{client}", address, json.dumps(asdict(load))]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def per_second(times: list[list[float]]) -> float:
    """Tokens or messages of all streams together; the first time of each is its start."""
    return sum(len(stream) - 1 for stream in times) / seconds_of(times)


def seconds_of(times: list[list[float]]) -> float:
    """From the first start to the last answer."""
    return max(stream[-1] for stream in times) - min(stream[0] for stream in times)


def processor_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def read_metric(server: ServerProcess, name: str) -> float:
    """A sample without labels, as Prometheus would scrape it."""
    with urllib.request.urlopen(f"http://{server.http_address}/metrics") as response:
        lines = response.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))
