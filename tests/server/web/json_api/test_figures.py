"""Who looks at the server over HTTP sees what its metrics and its manifest say."""

from pathlib import Path

import httpx2 as httpx
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from carousel.app import Running
from carousel.bundle.manifest import Bundle
from carousel.client import AsyncClient
from carousel.web.json_api.figures import read_figures


def test_figures_are_sums_over_labels() -> None:
    """A histogram's buckets too, in order; limits keep their names."""
    registry = CollectorRegistry()
    calls = Histogram("carousel_request_seconds", "x", ["method"], buckets=(0.1, 2.0, 10.0), registry=registry)
    for method, seconds in (("a", 0.05), ("a", 1.0), ("b", 1.0), ("b", 5.0), ("b", 50.0)):
        calls.labels(method).observe(seconds)
    requests = Counter("carousel_requests", "x", ["method"], registry=registry)
    requests.labels("a").inc(2)
    requests.labels("b").inc(3)
    limit = Gauge("carousel_limit", "x", ["name"], registry=registry)
    limit.labels("max_lanes").set(64)
    figures = read_figures(registry)
    assert figures["histograms"]["request_seconds"] == [(0.1, 1.0), (2.0, 3.0), (10.0, 4.0), (None, 5.0)]
    assert figures["histograms"]["step_seconds"] == []
    assert (figures["requests"], figures["busy_lanes"], figures["limits"]) == (5.0, 0.0, {"max_lanes": 64.0})


async def test_figures_follow_the_server(server: Running, http: httpx.AsyncClient, ours: AsyncClient) -> None:
    """Tokens are counted as they are consumed."""
    before = (await http.get("/figures")).json()
    await ours.predict("abcdef")
    after = (await http.get("/figures")).json()
    assert after["consumed_tokens"] - before["consumed_tokens"] >= 6
    assert after["histograms"]["step_seconds"][-1][1] > 0
    assert after["limits"]["max_lanes"] == 64
    assert after["time"] > after["start_time"] > 1e9


async def test_the_model_is_described(server: Running, http: httpx.AsyncClient, bundle: Path) -> None:
    """As its manifest has it."""
    told = (await http.get("/model")).json()
    manifest = Bundle.load(bundle).manifest
    assert (told["name"], told["digest"], told["cell"]) == (manifest.name, manifest.digest, manifest.cell)
    assert told["state_bytes"] == manifest.state.num_bytes
    assert [(one["name"], tuple(one["shape"])) for one in told["state"]] == [
        (one.name, one.shape) for one in manifest.state.tensors
    ]
    assert (told["provider"], told["limits"]["max_input_tokens"]) == ("cpu", 65_536)
