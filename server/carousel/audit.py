"""The audit log: who called what, with which result, as JSON lines in a file of their own. No line has text in it.

The file is appended to and never cut: rotation is the system's work. A file that was moved away is opened anew, by the
standard library's WatchedFileHandler.
"""

import contextlib
import datetime
import json
import logging
import logging.handlers
import sys
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


class AuditLog:
    """Writes one line for each call. It never raises: a full disk costs lines, which `failed` counts, and no calls."""

    def __init__(self, destination: str, failed: Callable[[], None]) -> None:
        """`destination` is a file, or `-` for standard output. Raises SettingsInvalid where it cannot be written."""
        try:
            self._handler = _open(destination)
        except OSError as error:
            raise SettingsInvalid(f"audit_log: cannot write {destination}: {error.strerror}") from error
        self._handler.setFormatter(logging.Formatter("%(message)s"))
        self._failed = failed
        self._handler.handleError = lambda record: failed()  # type: ignore[method-assign]

    def note(self, method: str, peer: str, code: str, seconds: float, facts: dict[str, Any]) -> None:
        """`facts` are those of the call's log line."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "method": method, "peer": peer, "code": code, "seconds": round(seconds, 6)}
        line |= {name: facts[key] for key, name in _FACTS.items() if key in facts}
        try:
            self._handler.handle(logging.LogRecord("audit", logging.INFO, "", 0, json.dumps(line), None, None))
        except OSError:  # where the file was, none can be opened
            self._failed()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._handler.close()


def _open(destination: str) -> logging.Handler:
    if destination == "-":
        return logging.StreamHandler(sys.stdout)
    return logging.handlers.WatchedFileHandler(destination, encoding="utf-8", errors="backslashreplace")
