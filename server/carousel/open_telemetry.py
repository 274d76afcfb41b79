"""Spans of calls for an OpenTelemetry collector, over OTLP. Needs the extra `otel`; no other module imports it.

A span has the RPC conventions' names and, where the call generates, those of generative AI
(opentelemetry-semantic-conventions 0.66b2). Its children are the call's parts. No text is in either.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Status, StatusCode

from carousel.traces import NoTraces, Span, Timeline, TraceParent

_SERVER_FAULTS = frozenset(  # a status that the caller causes is no error of a server's span
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
_NAMES = {
    "num_input_tokens": "gen_ai.usage.input_tokens",
    "num_generated_tokens": "gen_ai.usage.output_tokens",
    "session": "gen_ai.conversation.id",
    "reason": "error.type",
    "principal": "carousel.principal",
    "num_messages": "carousel.num_messages",
}
_CLOSE_SECONDS = 3.0
_EXPORT_SECONDS = 2  # for one batch; also the longest that a shutdown waits for a dead collector


class OpenTelemetry:
    """The traces of one server. Batches go out in a thread of their own; when spans come faster, some are lost."""

    def __init__(self, processor: SpanProcessor, model: str, version: str, share: float) -> None:
        """Records `share` of the calls that belong to no trace; of the others, those that their callers record."""
        named = Resource({"service.name": "carousel", "service.version": version})
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)),
            resource=named.merge(OTELResourceDetector().detect()),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("carousel", version)
        self._model = model

    def begin(self, name: str, attributes: Mapping[str, str], parent: TraceParent | None, began: float) -> Span:
        offset_ns = time.time_ns() - int(time.perf_counter() * 1e9)
        span = self._tracer.start_span(
            name,
            context=None if parent is None else _context_of(parent),
            kind=trace.SpanKind.SERVER,
            attributes=dict(attributes),
            start_time=offset_ns + int(began * 1e9),
        )
        if not span.is_recording():
            return NoTraces().begin(name, attributes, parent, began)
        return _CallSpan(span, self._tracer, self._model, offset_ns)

    async def close(self) -> None:
        """A thread of its own: the loop's pool would be waited for, however long a silent collector lets it hang."""
        loop, is_done = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(is_done.set)

        threading.Thread(target=shut_down, name="traces", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(is_done.wait(), _CLOSE_SECONDS)


class _CallSpan:
    __slots__ = ("_model", "_offset_ns", "_span", "_tracer", "timeline", "trace_id")

    def __init__(self, span: trace.Span, tracer: trace.Tracer, model: str, offset_ns: int) -> None:
        self._span = span
        self._tracer = tracer
        self._model = model
        self._offset_ns = offset_ns  # from time.perf_counter to the clock of spans
        context = span.get_span_context()
        self.trace_id = trace.format_trace_id(context.trace_id)
        self.timeline = Timeline({"trace_id": self.trace_id, "span_id": trace.format_span_id(context.span_id)})

    def end(self, ended: float, code: str, facts: Mapping[str, Any]) -> None:
        inside = trace.set_span_in_context(self._span)
        for part in self.timeline.parts:
            child = self._tracer.start_span(part.name, context=inside, start_time=self._nanoseconds(part.began))
            child.end(self._nanoseconds(part.ended))
        self._span.set_attribute("rpc.response.status_code", code)
        self._span.set_attributes({_NAMES[key]: value for key, value in facts.items() if key in _NAMES})
        if "num_generated_tokens" in facts:
            self._span.set_attributes(self._describe_generation(facts))
        if code in _SERVER_FAULTS:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(self._nanoseconds(ended))

    def _describe_generation(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.provider.name": "carousel",
            "gen_ai.request.model": self._model,
            "gen_ai.response.model": self._model,
            "gen_ai.response.finish_reasons": (facts["finish_reason"],),
        }

    def _nanoseconds(self, seconds: float) -> int:
        return self._offset_ns + int(seconds * 1e9)


def connect(endpoint: str, model: str, version: str, share: float) -> OpenTelemetry:
    """Returns traces that go to the collector at `endpoint`, a URL; https encrypts. What the SDK reads of its own
    environment variables, such as OTEL_EXPORTER_OTLP_HEADERS, holds."""
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=_EXPORT_SECONDS)
    return OpenTelemetry(BatchSpanProcessor(exporter), model, version, share)


def _context_of(parent: TraceParent) -> Context:
    flags = trace.TraceFlags.SAMPLED if parent.is_sampled else trace.TraceFlags.DEFAULT
    context = trace.SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), True, trace.TraceFlags(flags))
    return trace.set_span_in_context(trace.NonRecordingSpan(context))
