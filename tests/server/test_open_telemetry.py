"""A recorded call is a span with the true status, its parts are children, and no text is in them."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from tests.server.running_app import LOCAL, collect, fetch, request

from carousel import open_telemetry
from carousel.app import running
from carousel.errors import SettingsInvalid
from carousel.settings import Settings
from carousel.traces import TraceParent
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc, sessions_pb2, sessions_pb2_grpc

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACED = (("traceparent", f"00-{TRACE}-{SPAN}-01"),)
UNTRACED = (("traceparent", f"00-{TRACE}-{SPAN}-00"),)
SETTINGS = Settings(**LOCAL, otlp_endpoint="http://127.0.0.1:1", trace_share=0.0)


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Takes what would go to the collector."""
    exporter = InMemorySpanExporter()

    def connect(endpoint: str, model: str, version: str, share: float) -> open_telemetry.OpenTelemetry:
        return open_telemetry.OpenTelemetry(SimpleSpanProcessor(exporter), model, version, share)

    monkeypatch.setattr(open_telemetry, "connect", connect)
    return exporter


@pytest.fixture
def log_lines() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


@asynccontextmanager
async def served(bundle: Path, settings: Settings = SETTINGS) -> AsyncIterator[Any]:
    async with running(bundle, settings) as server, grpc.aio.insecure_channel(server.grpc_address) as channel:
        server_http = server.http_address
        models = language_model_pb2_grpc.LanguageModelStub(channel)
        yield models, sessions_pb2_grpc.SessionsStub(channel), server_http


def split(exporter: InMemorySpanExporter) -> tuple[ReadableSpan, list[ReadableSpan]]:
    """Returns the one call's span, and its children in the order of time."""
    spans = exporter.get_finished_spans()
    calls = [span for span in spans if span.kind == SpanKind.SERVER]
    assert len(calls) == 1
    children = [span for span in spans if span.parent is not None and span.parent.span_id == calls[0].context.span_id]
    assert len(children) == len(spans) - 1
    return calls[0], sorted(children, key=lambda span: span.start_time or 0)


async def test_a_generation_of_a_session(bundle: Path, exporter: InMemorySpanExporter, log_lines: list[Any]) -> None:
    """The span belongs to the caller's trace; its children follow one another within it."""
    async with served(bundle) as (models, sessions, _):
        await sessions.CreateSession(sessions_pb2.CreateSessionRequest(session_id="marked"), metadata=UNTRACED)
        await collect(models.Generate(request(7, "marked"), metadata=TRACED))
    call, children = split(exporter)
    assert call.name == "carousel.v1.LanguageModel/Generate"
    assert call.context.trace_id == int(TRACE, 16)
    assert call.parent is not None
    assert call.parent.span_id == int(SPAN, 16)
    assert [child.name for child in children] == ["hold", "queue", "prompt", "generate", "store"]
    times = [(child.start_time or 0, child.end_time or 0) for child in children]
    assert all(began <= ended for began, ended in times)
    assert all(ended <= began + 1000 for (_, ended), (began, _) in zip(times, times[1:], strict=False))  # rounding
    assert (call.start_time or 0) <= times[0][0]
    assert times[-1][1] <= (call.end_time or 0)
    attributes = dict(call.attributes or {})
    assert attributes.pop("gen_ai.conversation.id") != "marked"
    assert attributes.pop("gen_ai.request.model") == attributes.pop("gen_ai.response.model")
    assert attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": "carousel.v1.LanguageModel/Generate",
        "rpc.response.status_code": "OK",
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "carousel",
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.response.finish_reasons": ("length",),
    }
    assert {line.get("trace_id") for line in log_lines if line["event"] == "call"} == {TRACE}


async def test_a_refusal_has_its_true_status(bundle: Path, exporter: InMemorySpanExporter) -> None:
    """What the caller causes is no error of the server's span."""
    async with served(bundle) as (models, _, _http):
        with pytest.raises(grpc.aio.AioRpcError):
            await collect(models.Generate(request(7, "nobody"), metadata=TRACED))
    call, _children = split(exporter)
    assert (call.attributes or {})["rpc.response.status_code"] == "NOT_FOUND"
    assert (call.attributes or {})["error.type"] == "SESSION_NOT_FOUND"
    assert call.status.status_code is StatusCode.UNSET


async def test_scores_and_branches_have_their_parts(bundle: Path, exporter: InMemorySpanExporter) -> None:
    """A score has no generation; two branches have a queue each, after the input's."""
    async with served(bundle) as (models, _, _http):
        await collect(models.Score(wire.ScoreRequest(input=request(1).input), metadata=TRACED))
        assert [child.name for child in split(exporter)[1]] == ["queue", "prompt"]
        exporter.clear()
        several = request(3)
        several.n = 2
        await collect(models.Generate(several, metadata=TRACED))
    names = [child.name for child in split(exporter)[1]]
    assert names[:2] == ["queue", "prompt"]
    assert sorted(names[2:]) == ["generate", "generate", "prompt", "prompt", "queue", "queue"]


async def test_a_given_up_call_is_recorded(bundle: Path, exporter: InMemorySpanExporter) -> None:
    """With CANCELLED, and the parts that it had."""
    async with served(bundle) as (models, _, _http):
        call = models.Generate(request(10_000), metadata=TRACED)
        await call.read()
        call.cancel()
        while not exporter.get_finished_spans():
            await asyncio.sleep(0.01)
    span, children = split(exporter)
    assert (span.attributes or {})["rpc.response.status_code"] == "CANCELLED"
    assert [child.name for child in children] == ["queue", "prompt"]


@pytest.mark.parametrize("share", [0.0, 1.0])
async def test_only_what_is_sampled_is_recorded(
    bundle: Path, exporter: InMemorySpanExporter, log_lines: list[Any], share: float
) -> None:
    """A caller's decision holds; a call of nobody's trace is recorded by the share. A log line has the trace's id if
    somebody else has it, too."""
    async with served(bundle, SETTINGS.model_copy(update={"trace_share": share})) as (models, _, _http):
        await collect(models.Generate(request(1), metadata=UNTRACED))
        await collect(models.Generate(request(1)))
    known = [line.get("trace_id") for line in log_lines if line["event"] == "call"]
    if share:
        assert split(exporter)[0].parent is None
        assert known == [TRACE, f"{split(exporter)[0].context.trace_id:032x}"]
    else:
        assert not exporter.get_finished_spans()
        assert known == [TRACE, None]


async def test_latencies_have_exemplars_in_openmetrics(bundle: Path, exporter: InMemorySpanExporter) -> None:
    """A recorded call's trace stands beside the measured value, and only there."""
    async with served(bundle) as (models, _, http):
        await collect(models.Generate(request(3), metadata=TRACED))
        _, page = await fetch(http, "/metrics", "Accept: application/openmetrics-text; version=1.0.0")
        _, plain = await fetch(http, "/metrics", "Accept: text/plain")
    marked = {line.split("_bucket")[0] for line in page.splitlines() if f'trace_id="{TRACE}"' in line}
    assert marked == {
        "carousel_request_seconds",
        "carousel_time_to_first_token_seconds",
        "carousel_queue_wait_seconds",
    }
    assert TRACE not in plain


async def test_no_text_is_recorded(bundle: Path, exporter: InMemorySpanExporter) -> None:
    """Neither the input nor what was generated nor the session's id is in any span."""
    async with served(bundle) as (models, sessions, _):
        await sessions.CreateSession(sessions_pb2.CreateSessionRequest(session_id="marked-id"), metadata=TRACED)
        asked = request(7, "marked-id")
        asked.input.text = "marked text"
        asked.request_id = "marked-request"
        asked.stop.append("marked stop")
        await collect(models.Generate(asked, metadata=TRACED))
        await models.Tokenize(wire.TokenizeRequest(text="marked text"), metadata=TRACED)
    recorded = "".join(span.to_json() for span in exporter.get_finished_spans())
    assert "marked" not in recorded


def test_the_resource_is_ours_unless_the_environment_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_SERVICE_NAME wins, as in every program that uses the SDK."""

    def resource() -> dict[str, Any]:
        exporter = InMemorySpanExporter()
        traces = open_telemetry.OpenTelemetry(SimpleSpanProcessor(exporter), "m", "9.9", 1.0)
        traces.begin("a", {}, TraceParent(TRACE, SPAN, True), 1.0).end(2.0, "INTERNAL", {})
        (span,) = exporter.get_finished_spans()
        assert span.status.status_code is StatusCode.ERROR
        assert (span.end_time or 0) - (span.start_time or 0) == 1_000_000_000
        return dict(span.resource.attributes)

    assert resource() | {"service.name": "carousel", "service.version": "9.9"} == resource()
    monkeypatch.setenv("OTEL_SERVICE_NAME", "corner")
    assert resource()["service.name"] == "corner"


async def test_missing_packages_are_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server does not start, and says what to install."""
    monkeypatch.setitem(sys.modules, "carousel.open_telemetry", None)
    monkeypatch.delattr("carousel.open_telemetry", raising=False)
    with pytest.raises(SettingsInvalid, match=r"carousel-serving\[otel\]"):
        async with running(bundle, SETTINGS):
            pass
