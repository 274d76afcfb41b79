"""The connection between the supervisor and one worker: a pair of sockets, and lines of JSON over them.

Nobody else can reach it, and each end sees when the other dies. The supervisor asks by a word of `Word`; the worker
answers with the word and what it was asked for, and tells by itself that it has started or why it could not. It asks
for one thing itself: the figures of all.
"""

import asyncio
import enum
import json
import socket
from typing import Any

_MAX_LINE_BYTES = 2**26  # a page of metrics has a few hundred thousand

Message = dict[str, Any]


class Word(enum.StrEnum):
    """What the two say to each other."""

    STATE = "state"  # asks for `is_ready` and `text`
    PAGE = "page"  # asks for the metrics: `page`, in OpenMetrics
    DRAIN = "drain"  # has no answer
    FIGURES = "figures"  # the worker asks for those of all: `figures`, or null where no worker has told its own
    STARTED = "started"  # of the worker: `provider`
    FAILED = "failed"  # of the worker, before it ends: `why`


class Link:
    """One end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, end: socket.socket) -> "Link":
        return cls(*await asyncio.open_unix_connection(sock=end, limit=_MAX_LINE_BYTES))

    async def read(self) -> Message | None:
        """Returns the next message; None when the other end is closed or dead."""
        try:
            line = await self._reader.readline()
        except (OSError, ValueError):
            return None
        return json.loads(line) if line.endswith(b"\n") else None

    def send(self, word: Word, **facts: Any) -> None:
        """Never waits: the other end reads, or is dead."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps({"word": word} | facts).encode() + b"\n")

    def close(self) -> None:
        self._writer.close()
