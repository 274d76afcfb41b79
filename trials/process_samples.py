"""A process's resources, as Linux reports them."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class Samples:
    """Lists of equal length: turns until then, and the server's resources."""

    turns: list[float] = field(default_factory=list)
    resident_bytes: list[float] = field(default_factory=list)
    open_files: list[float] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Writes a table, one line each."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = zip(self.turns, self.resident_bytes, self.open_files, strict=True)
        path.write_text("turns,resident_bytes,open_files\n" + "".join(f"{a},{b},{c}\n" for a, b, c in lines))


def waited_seconds(directory: Path) -> float:
    """Returns how long all threads of the process in `directory` (/proc/PID) together were ready to run but waited for
    a processor, since they began."""
    nanoseconds = 0
    for thread in (directory / "task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            nanoseconds += int((thread / "schedstat").read_text().split()[1])
    return nanoseconds / 1e9


async def sample_for_ever(pid: int, count_turns: Callable[[], int], samples: Samples, seconds: float = 1.0) -> None:
    """Adds a sample every `seconds`, until cancelled. Raises FileNotFoundError when the process has exited."""
    directory = Path(f"/proc/{pid}")
    while True:
        samples.turns.append(count_turns())
        samples.resident_bytes.append(int((directory / "statm").read_text().split()[1]) * _PAGE_BYTES)
        samples.open_files.append(len(list((directory / "fd").iterdir())))
        await asyncio.sleep(seconds)
