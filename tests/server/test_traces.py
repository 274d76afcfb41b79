"""A call's trace is read as W3C Trace Context says, and its parts are noted by whoever does them."""

import pytest

from carousel.traces import UNRECORDED, NoTraces, Timeline, TraceParent, read_traceparent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("value", "is_sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),  # other flags mean nothing to us
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", True),
    ],
)
def test_a_callers_span_is_read(value: str, is_sampled: bool) -> None:
    """A later version may say more behind."""
    assert read_traceparent([("traceparent", value)]) == TraceParent(TRACE, SPAN, is_sampled)
    assert read_traceparent([("x", "y"), ("Traceparent", value)]) == TraceParent(TRACE, SPAN, is_sampled)


@pytest.mark.parametrize(
    "value",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01\n",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-0x",
        b"00-" + TRACE.encode(),
    ],
)
def test_a_wrong_one_is_none(value: str | bytes) -> None:
    """The call goes on without a trace."""
    assert read_traceparent([("traceparent", value)]) is None


def test_two_are_none() -> None:
    """Which one is the caller's cannot be known."""
    one = ("traceparent", f"00-{TRACE}-{SPAN}-01")
    assert read_traceparent([one, one]) is None
    assert read_traceparent([]) is None


def test_a_timeline_keeps_what_is_noted() -> None:
    """Also a part that fails; but no more than a bounded number."""
    timeline = Timeline()
    timeline.note("queue", 1.0, 2.0)
    with pytest.raises(KeyError), timeline.measure("store"):
        raise KeyError
    assert [part.name for part in timeline.parts] == ["queue", "store"]
    assert timeline.parts[0].began == 1.0
    assert timeline.parts[1].began <= timeline.parts[1].ended
    for _ in range(200):
        timeline.note("queue", 1.0, 2.0)
    assert len(timeline.parts) == 64


def test_what_nobody_records_keeps_nothing() -> None:
    """All calls share that timeline."""
    UNRECORDED.note("queue", 1.0, 2.0)
    assert not UNRECORDED.parts


async def test_without_a_recorder_a_call_knows_its_callers_trace() -> None:
    """The log line names it."""
    traces = NoTraces()
    assert traces.begin("a", {}, TraceParent(TRACE, SPAN, True), 0.0).trace_id == TRACE
    span = traces.begin("a", {}, None, 0.0)
    assert span.trace_id == ""
    assert span.timeline is UNRECORDED
    span.end(1.0, "OK", {})
    await traces.close()
