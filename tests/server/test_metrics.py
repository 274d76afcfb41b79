"""What is measured follows the rules of Prometheus, and its labels neither grow without bound nor reveal users."""

import re

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition, parser
from prometheus_client.parser import text_string_to_metric_families

from carousel.metrics import Metrics

LABELS = {"method", "code", "reason", "error", "task", "name", "le"}
INFO_LABELS = {"version", "onnxruntime", "name", "digest", "cell", "precision", "provider"}


class Step:
    num_lanes = 3
    num_tokens = 17


@pytest.fixture
def registry() -> CollectorRegistry:
    """Returns a registry whose metrics have all been used once."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.build_info(version="1", onnxruntime="2")
    metrics.model_info(name="n", digest="d", cell="lstm", precision="float32", provider="cpu")
    metrics.request_started("Generate")
    metrics.request_done("Generate", "OK", 0.1)
    metrics.refused("max_streams")
    metrics.tokens_generated(1, 0.01, is_first=True)
    metrics.tokens_generated(2, 0.04, is_first=False)
    metrics.step_done(0.001, Step(), 5)
    metrics.step_failed(RuntimeError("secret"))
    metrics.waited(0.5)
    metrics.session_created()
    metrics.num_live_sessions(4)
    metrics.num_session_bytes(2048)
    metrics.num_busy_lanes(3)
    metrics.limit_is("max_lanes", 64)
    metrics.session_ended("expired")
    metrics.store_is_up(True)
    metrics.task_restarted("sweep")
    metrics.loop_lagged(0.02)
    return registry


def test_names_follow_the_rules(registry: CollectorRegistry) -> None:
    """Names are prefixed snake case with a help text; durations are in seconds; counters, and only they, end in
    _total."""
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        if family.name.endswith("_created"):
            continue  # metrics of the client library
        assert re.fullmatch(r"carousel_[a-z_]+[a-z]", family.name)
        assert family.documentation.endswith(".")
        assert not re.search(r"_(ms|milliseconds|count|sum|bucket)$", family.name)
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
    durations = {f.name for f in registry.collect() if "Duration" in f.documentation or "From " in f.documentation}
    assert durations
    assert all(name.endswith("_seconds") for name in durations)


def test_the_exposition_is_read_by_the_strict_parser(registry: CollectorRegistry) -> None:
    """OpenMetrics' own parser, which refuses what breaks its rules, reads all of it."""
    text = exposition.generate_latest(registry).decode()  # type: ignore[no-untyped-call]
    families = list(parser.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]
    assert len(families) == len(list(registry.collect()))


def test_labels_are_bounded_sets(registry: CollectorRegistry) -> None:
    """Only known labels exist, so neither an id nor a text can be one; an error's text is not in its label."""
    for family in registry.collect():
        allowed = INFO_LABELS if family.name.endswith("_info") else LABELS
        for sample in family.samples:
            assert set(sample.labels) <= allowed, sample
    assert "secret" not in generate_latest(registry).decode()


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("requests_total", {"method": "Generate", "code": "OK"}, 1),
        ("request_seconds_sum", {"method": "Generate", "code": "OK"}, 0.1),
        ("running_requests", {"method": "Generate"}, 0),
        ("refusals_total", {"reason": "max_streams"}, 1),
        ("time_to_first_token_seconds_sum", {}, 0.01),
        ("time_between_tokens_seconds_sum", {}, 0.02),
        ("generated_tokens_total", {}, 3),
        ("consumed_tokens_total", {}, 17),
        ("step_lanes_sum", {}, 3),
        ("step_seconds_count", {}, 1),
        ("step_failures_total", {"error": "RuntimeError"}, 1),
        ("queued_turns", {}, 5),
        ("queue_wait_seconds_sum", {}, 0.5),
        ("live_sessions", {}, 4),
        ("session_bytes", {}, 2048),
        ("busy_lanes", {}, 3),
        ("limit", {"name": "max_lanes"}, 64),
        ("sessions_created_total", {}, 1),
        ("sessions_ended_total", {"reason": "expired"}, 1),
        ("store_up", {}, 1),
        ("task_restarts_total", {"task": "sweep"}, 1),
        ("event_loop_lag_seconds_sum", {}, 0.02),
        ("event_loop_lag_seconds_bucket", {"le": "0.01"}, 0),
        ("event_loop_lag_seconds_bucket", {"le": "0.025"}, 1),
        ("build_info", {"version": "1", "onnxruntime": "2"}, 1),
    ],
)
def test_what_is_told_is_shown(registry: CollectorRegistry, name: str, labels: dict[str, str], value: float) -> None:
    """Each fact lands in its metric."""
    assert registry.get_sample_value(f"carousel_{name}", labels) == value


def test_two_servers_in_a_process_do_not_mix() -> None:
    """Metrics belong to the registry that is handed in."""
    one, other = CollectorRegistry(), CollectorRegistry()
    Metrics(one).session_created()
    Metrics(other)
    assert other.get_sample_value("carousel_sessions_created_total") == 0
