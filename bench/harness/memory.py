"""Resident memory of processes (Linux)."""

import gc
import os
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Of this process, after a collection."""
    gc.collect()
    return _resident_pages("self") * _PAGE_BYTES


def resident_mib(pid: int) -> float:
    """Of another process."""
    return _resident_pages(str(pid)) * _PAGE_BYTES / 2**20


def _resident_pages(process: str) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1])
