"""Load on a running server from a client process of its own, and what it cost both of them."""

import json
import os
import subprocess
import sys
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.clients.streams import Load
from bench.harness.server_process import ServerProcess

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds that a load took, and the share of one core that server and client had meanwhile."""

    seconds: float
    server_share: float
    client_share: float


def put_load(address: str, load: Load) -> Any:
    """What the client process prints."""
    command = [sys.executable, "-m", "bench.clients.streams", address, json.dumps(asdict(load))]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def processor_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def read_metric(server: ServerProcess, name: str) -> float:
    """A sample without labels, as Prometheus would scrape it."""
    with urllib.request.urlopen(f"http://{server.http_address}/metrics") as response:
        lines = response.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))
