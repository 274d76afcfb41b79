"""The audit log: who called what, with which result, as JSON lines in a file of their own. No line has text in it.

The file is appended to and never cut: rotation is the system's work. A file that was moved away is opened anew, by the
standard library's WatchedFileHandler. A thread writes, so a slow disk keeps no call waiting.
"""

import contextlib
import datetime
import json
import logging
import logging.handlers
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

from carousel.errors import SettingsInvalid

_FACTS = {  # of a call's log line, by their names here
    "principal": "principal",
    "session": "session",
    "reason": "reason",
    "num_input_tokens": "input_tokens",
    "num_generated_tokens": "generated_tokens",
    "num_messages": "messages",
    "trace_id": "trace_id",
}
_MAX_WAITING = 10_000  # lines; more than a disk takes are lost
_CLOSE_SECONDS = 2.0


class AuditLog:
    """Writes one line for each call. It never raises and never waits: a full or stuck disk costs lines, which `failed`
    counts, and no calls."""

    def __init__(self, destination: str, failed: Callable[[], None]) -> None:
        """`destination` is a file, or `-` for standard output. Raises SettingsInvalid where it cannot be written."""
        try:
            self._handler = logging.StreamHandler(sys.stdout) if destination == "-" else _PrivateFile(destination)
        except OSError as error:
            raise SettingsInvalid(f"audit_log: cannot write {destination}: {error.strerror}") from error
        self._failed = failed
        self._handler.setFormatter(logging.Formatter("%(message)s"))
        self._handler.handleError = lambda record: failed()  # type: ignore[method-assign]
        self._lines: queue.Queue[str | None] = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._write, name="audit", daemon=True)
        self._thread.start()

    def note(self, method: str, peer: str, code: str, seconds: float, facts: dict[str, Any]) -> None:
        """`facts` are those of the call's log line."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "method": method, "peer": peer, "code": code, "seconds": round(seconds, 6)}
        line |= {name: facts[key] for key, name in _FACTS.items() if key in facts}
        try:
            self._lines.put_nowait(json.dumps(line))
        except queue.Full:
            self._failed()

    def close(self) -> None:
        """Writes what waits, for two seconds at most."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=_CLOSE_SECONDS)
            self._thread.join(_CLOSE_SECONDS)
        if not self._thread.is_alive():
            with contextlib.suppress(OSError):  # what it has not written yet
                self._handler.close()

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._handler.handle(logging.LogRecord("audit", logging.INFO, "", 0, line, None, None))
            except Exception:  # such as an OSError: where the file was, none can be opened
                self._failed()


class _PrivateFile(logging.handlers.WatchedFileHandler):
    """A file that only the server's user may read."""

    def __init__(self, destination: str) -> None:
        super().__init__(destination, encoding="utf-8", errors="backslashreplace")

    def _open(self) -> Any:
        return open(
            self.baseFilename,
            self.mode,
            encoding=self.encoding,
            errors=self.errors,
            opener=_open_private,
        )


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
