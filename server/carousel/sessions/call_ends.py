"""Tells how each call ended: to the metrics, the log, the traces and the audit log."""

import time
from typing import Any, Protocol

import structlog

from carousel.metrics import Metrics
from carousel.sessions import facts
from carousel.traces import NoTraces, Span, Traces


class Audit(Protocol):
    """What keeps a line for each call."""

    def note(self, method: str, peer: str, code: str, seconds: float, facts: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class CallEnds:
    """Where the ends of calls are told. An end is told once."""

    def __init__(self, metrics: Metrics, traces: Traces | None = None, audit: Audit | None = None) -> None:
        self.traces = NoTraces() if traces is None else traces
        self._metrics = metrics
        self._audit = audit
        self._log = structlog.get_logger("carousel.calls")

    async def close(self) -> None:
        """Ends the traces and the audit log."""
        await self.traces.close()
        if self._audit is not None:
            self._audit.close()

    def tell(
        self,
        method: str,
        peer: str,
        request: Any,
        principal: str,
        span: Span,
        started: float,
        code: str,
        told: dict[str, Any],
    ) -> None:
        """`told` are the call's facts for its log line."""
        ended = time.perf_counter()
        seconds = ended - started
        if principal:
            self._metrics.principal_called(principal, code)
        self._metrics.request_done(method, code, seconds, span.timeline.exemplar)
        if span.trace_id:
            told["trace_id"] = span.trace_id
        self._log.info("call", method=method, code=code, seconds=round(seconds, 6), **told)
        if self._audit is None and not span.timeline.is_recorded:
            return
        told |= facts.of_session(request)
        if self._audit is not None:
            self._audit.note(method, peer, code, seconds, told)
        if span.timeline.is_recorded:
            span.end(ended, code, told)

    def tell_refusal(self, method: str, peer: str, code: str, told: dict[str, Any]) -> None:
        """Of what was refused before it was a call."""
        self._log.info("call", method=method, code=code, **told)
        if self._audit is not None:
            self._audit.note(method, peer, code, 0.0, told)
