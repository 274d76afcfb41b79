"""The pages of several workers become one, with the series of a single server."""

from collections.abc import Iterable

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Metric, ProcessCollector
from prometheus_client.exposition import generate_latest as write_text
from prometheus_client.openmetrics.exposition import generate_latest

from carousel.metrics import Metrics
from carousel.workers.merging import GAUGES, How, Merged


def page_of(registry: CollectorRegistry) -> str:
    page: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return page.decode()


def served() -> tuple[CollectorRegistry, Metrics]:
    registry = CollectorRegistry()
    return registry, Metrics(registry)


def samples(merged: Merged) -> dict[str, float]:
    """By name and labels, as a page has them."""
    lines = [line.rpartition(" ") for line in write_text(merged).decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def merge(*pages: str | Iterable[Metric]) -> Merged:
    merged = Merged()
    for number, page in enumerate(pages):
        merged.add(page, str(number))
    return merged


def test_one_page_stays_as_it_is() -> None:
    """Every series of a server's is there under its name and labels, but for the gauges that each worker has."""
    registry, metrics = served()
    metrics.request_done("Generate", "OK", 0.3)
    metrics.limit_is("max_lanes", 64)
    single = samples(merge(registry.collect()))
    alone = {line.rpartition(" ")[0] for line in write_text(registry).decode().splitlines() if line[0] != "#"}
    assert {name.replace('{worker="0"}', "") for name in single} == alone


def test_every_gauge_has_a_place_in_the_table() -> None:
    """A new one has to be put there: what is right for it, nobody else can know."""
    gauges = {family.name for family in served()[0].collect() if family.type == "gauge"}
    assert gauges <= set(GAUGES)


def test_counts_are_added() -> None:
    """Of counters and of histograms, bucket by bucket; since when they count is the earliest."""
    pages = []
    for seconds in (0.3, 20.0):
        registry, metrics = served()
        metrics.request_done("Generate", "OK", seconds)
        metrics.refused("max_lanes")
        pages.append(page_of(registry))
    found = samples(merge(*pages))
    assert found['carousel_requests_total{code="OK",method="Generate"}'] == 2
    assert found['carousel_request_seconds_bucket{code="OK",le="0.5",method="Generate"}'] == 1
    assert found['carousel_request_seconds_bucket{code="OK",le="+Inf",method="Generate"}'] == 2
    assert found['carousel_request_seconds_sum{code="OK",method="Generate"}'] == pytest.approx(20.3)
    created = [samples(merge(page))["carousel_consumed_tokens_created"] for page in pages]
    assert found["carousel_consumed_tokens_created"] == min(created)


def test_gauges_are_what_is_right_for_each() -> None:
    """What is in use is added; what all see in the store is not; a limit that was divided is whole again."""
    pages = []
    for number in (1, 2):
        registry, metrics = served()
        metrics.num_busy_lanes(number)
        metrics.num_live_sessions(100 + number)
        metrics.limit_is("max_lanes", 32)
        metrics.limit_is("max_input_tokens", 7)
        metrics.store_is_up(number == 1)
        metrics.steps_run_in_loop(number == 2)
        metrics.build_info(version="1", onnxruntime="2")
        pages.append(page_of(registry))
    found = samples(merge(*pages))
    assert (found["carousel_busy_lanes"], found["carousel_live_sessions"], found["carousel_store_up"]) == (3, 102, 0)
    assert found['carousel_limit{name="max_lanes"}'] == 64
    assert found['carousel_limit{name="max_input_tokens"}'] == 7
    assert found['carousel_steps_in_event_loop{worker="0"}'] == 0
    assert found['carousel_steps_in_event_loop{worker="1"}'] == 1
    assert found['carousel_build_info{onnxruntime="2",version="1"}'] == 1


def test_what_describes_a_process_is_each_workers_own() -> None:
    """Those of the process itself, an Info, and a gauge that nobody has heard of."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    Info("carousel_kind", "Of what kind it is.", registry=registry).info({"cell": "lstm"})
    Gauge("carousel_news", "Nobody has heard of it.", registry=registry).set(3)
    found = samples(merge(page_of(registry), page_of(registry)))
    for number in ("0", "1"):
        assert f'process_cpu_seconds_total{{worker="{number}"}}' in found
        assert found[f'carousel_kind_info{{cell="lstm",worker="{number}"}}'] == 1
        assert found[f'carousel_news{{worker="{number}"}}'] == 3


def test_the_newest_exemplar_stays() -> None:
    """A bucket has one, which leads to a trace."""
    pages = []
    for trace in ("old", "new"):
        registry = CollectorRegistry()
        histogram = Histogram("seconds", "Time.", buckets=(1.0,), registry=registry)
        histogram.observe(0.5, {"trace_id": trace})
        Counter("calls", "Calls.", registry=registry).inc(1, {"trace_id": trace})
        pages.append(page_of(registry))
    for order in (pages, pages[::-1]):
        text = generate_latest(merge(*order)).decode()  # type: ignore[no-untyped-call]
        assert text.count('trace_id="new"') == 2
        assert "old" not in text


def test_what_an_ended_worker_counted_stays() -> None:
    """Its counts do, so that no sum falls; what it had in use is gone, and so is what described it."""
    registry, metrics = served()
    ProcessCollector(registry=registry)
    metrics.request_done("Score", "OK", 0.1)
    metrics.num_busy_lanes(4)
    ended = Merged()
    ended.add(page_of(registry), "0", counts_only=True)
    merged = ended.copy()
    merged.add(page_of(registry), "0")
    found = samples(merged)
    assert found['carousel_requests_total{code="OK",method="Score"}'] == 2
    assert found["carousel_busy_lanes"] == 4
    assert samples(ended)['carousel_requests_total{code="OK",method="Score"}'] == 1
    assert not [name for name in samples(ended) if name.startswith(("process_", "carousel_busy"))]


def test_only_counts_are_kept_of_what_has_ended() -> None:
    """Whatever the table says of gauges."""
    assert How.SUM in GAUGES.values()
    registry = CollectorRegistry()
    for name, how in GAUGES.items():
        if how is How.SUM:
            Gauge(name, "In use.", registry=registry).set(1)
    ended = Merged()
    ended.add(page_of(registry), "0", counts_only=True)
    assert samples(ended) == {}
