"""A call's trace: the caller's span that it belongs to, how long its parts took, and who records both.

`open_telemetry.py` records them for a collector. Without it, a call's log line still has the caller's trace id.
"""

import contextlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from carousel.records import record

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MAX_PARTS = 64  # of one call: a generation with many branches has three for each


@record(frozen=True, slots=True)
class TraceParent:
    """A span of the caller, under which it makes the call."""

    trace_id: str  # 32 hexadecimal digits
    span_id: str  # 16
    is_sampled: bool


@record(frozen=True, slots=True)
class Part:
    """One part of a call, in seconds of time.perf_counter."""

    name: str
    began: float
    ended: float


class Timeline:
    """The parts of one call, noted by whoever does them: hold, queue, prompt, generate, store. Never one of a token."""

    __slots__ = ("exemplar", "is_recorded", "parts")

    def __init__(self, exemplar: dict[str, str] | None = None, *, is_recorded: bool = True) -> None:
        """`exemplar` names the trace beside a measured latency, if the trace is recorded."""
        self.exemplar = exemplar
        self.is_recorded = is_recorded
        self.parts: list[Part] = []

    def note(self, name: str, began: float, ended: float) -> None:
        if self.is_recorded and len(self.parts) < _MAX_PARTS:
            self.parts.append(Part(name, began, ended))

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Notes how long the block takes, also when it fails."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.note(name, began, time.perf_counter())


UNRECORDED = Timeline(is_recorded=False)


class Span(Protocol):
    """One call, from its begin to its end."""

    trace_id: str  # empty where there is none
    timeline: Timeline

    def end(self, ended: float, code: str, facts: Mapping[str, Any]) -> None:
        """Ends the span, once. `code` is the status that the client gets; `facts` are those of the call's log line."""
        ...


class Traces(Protocol):
    """Records calls. It never raises, and never waits for whoever reads the records."""

    def begin(self, name: str, attributes: Mapping[str, str], parent: TraceParent | None, began: float) -> Span:
        """`name` is bounded, as a metric's label is. All times are seconds of time.perf_counter."""
        ...

    async def close(self) -> None:
        """Sends what is not sent yet, if that takes only moments. Nothing begins after it."""
        ...


class _Unrecorded:
    """The span of a call that nobody records."""

    __slots__ = ("timeline", "trace_id")

    def __init__(self, trace_id: str) -> None:
        self.trace_id = trace_id
        self.timeline = UNRECORDED

    def end(self, ended: float, code: str, facts: Mapping[str, Any]) -> None:
        pass


class NoTraces:
    """Records nothing. A call knows the caller's trace all the same."""

    def begin(self, name: str, attributes: Mapping[str, str], parent: TraceParent | None, began: float) -> Span:
        return _Unrecorded("" if parent is None else parent.trace_id)

    async def close(self) -> None:
        pass


def read_traceparent(metadata: Iterable[tuple[str, str | bytes]]) -> TraceParent | None:
    """Returns the caller's span, or None where `traceparent` is missing, wrong or there twice. Source: W3C Trace
    Context, level 1, section 3.2."""
    found = [value for key, value in metadata if key.lower() == "traceparent"]
    if len(found) != 1 or not isinstance(found[0], str) or (match := _TRACEPARENT.fullmatch(found[0])) is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest is not None) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceParent(trace_id, span_id, is_sampled=bool(int(flags, 16) & 1))
