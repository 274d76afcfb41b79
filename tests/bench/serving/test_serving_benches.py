"""The benches of starts, long inputs and many sessions, on a tiny model: their figures, and raw against served."""

import gc
import json
from pathlib import Path

import numpy as np
import pytest
from bench.clients.long_inputs import draw_sequence
from bench.harness.child_process import find_program, running_redis
from bench.harness.load import Load
from bench.harness.raw_prompts import Pass, RawPrompts
from bench.serving.ingest import Company, measure_ingest, print_company
from bench.serving.long_inputs import Inputs, Passes, print_passes
from bench.serving.score import measure_score
from bench.serving.sessions.numbers import measure_growth
from tests import bundles

from bench.serving import start, workers
from carousel.bundle.manifest import Bundle
from carousel.engine.model import OnnxModel

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundle")
    bundles.write_bundle(directory)
    return directory


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    lines = map(json.loads, capsys.readouterr().out.splitlines())
    return {line["name"]: line["value"] for line in lines}


def test_the_bare_loop_rates_a_sequence_as_single_steps_do(bundle: Path) -> None:
    """With any chunk, the log-probability is the sum over single tokens."""
    loaded = Bundle.load(bundle)
    model = OnnxModel(loaded)
    ids = [draw_sequence(number, 20, model.vocabulary_size) for number in range(3)]
    expected = 0.0
    for sequence in ids:
        hidden_BTH, state = model.core(*_one(loaded.manifest.start_id), model.layout.initial(1))
        for index in sequence:
            expected += float(model.score(hidden_BTH[:, -1], np.array([index])).log_probs_N[0])
            hidden_BTH, state = model.core(*_one(index), state)
    raw = RawPrompts(model, loaded.manifest.start_id, np.array(ids))
    for chunk in (1, 7, 64):
        assert raw.run("score", chunk).log_probability == pytest.approx(expected, rel=1e-6)


def test_different_ratings_are_no_comparison() -> None:
    """Figures are not printed when served and raw disagree about the work."""
    bare = {16: [Pass(1.0, -10.0)]}
    with pytest.raises(SystemExit, match="do not rate"):
        print_passes("score.tiny", 8, Passes(bare, [Pass(1.0, -10.1)]))


def test_the_best_chunk_is_the_one_that_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """The ratio is served speed over that of the chunk with the least median of seconds."""
    bare = {chunk: [Pass(seconds, 0.0)] * 3 for chunk, seconds in ((16, 2.0), (64, 1.0), (256, 4.0))}
    print_passes("ingest.tiny", 8, Passes(bare, [Pass(seconds, 0.0) for seconds in (1.0, 2.0, 2.5)]))
    figures = printed(capsys)
    assert figures["ingest.tiny.best_chunk"] == 64
    assert figures["ingest.tiny"] == 0.5


def test_company_is_compared_with_solitude(capsys: pytest.CaptureFixture[str]) -> None:
    """A prompt's figure is its speed beside a stream over that alone. The stream's is the 99th percentile meanwhile
    over a mean gap; several rounds give the median."""
    rounds = [
        Company(1.0, beside, [0.1, 0.2, 0.9], [0.3] * 98 + [slow] * 2)
        for beside, slow in ((2.0, 0.4), (4.0, 0.6), (1.25, 9.0))
    ]
    print_company("ingest.tiny.beside_one", 100, rounds)
    figures = printed(capsys)
    assert figures["ingest.tiny.beside_one"] == 0.5
    assert figures["ingest.tiny.beside_one.tokens"] == 50
    assert figures["ingest.tiny.beside_one.p99_between_tokens"] == pytest.approx(1.5)


def test_long_inputs_are_measured_against_a_server(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both kinds are measured, with raw speeds by chunk."""
    inputs = Inputs(bundle, num_threads=1, num_rounds=1, num_tokens=40)
    measure_ingest("tiny", inputs)
    measure_score("tiny", inputs)
    figures = printed(capsys)
    assert {"ingest.tiny", "score.tiny", "score.tiny.raw_chunk_64", "ingest.tiny.served"} <= figures.keys()
    assert {"ingest.tiny.beside_one", "ingest.tiny.beside_one.p99_between_tokens"} <= figures.keys()
    assert all(value > 0 for value in figures.values())


def test_a_start_is_measured_against_a_bare_process(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The figures are seconds and memory; a server is never smaller than its libraries."""
    start.measure_readiness(bundle, {}, 1)
    start.measure_memory(bundle, {}, 20)
    figures = printed(capsys)
    assert 0 < figures["start.ready_seconds"] < figures["start.whole_seconds"]
    assert figures["start.rss_ratio"] > 1


def test_sessions_are_counted_by_their_number(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only a million is called a million."""
    try:
        measure_growth(bundle, 1000, num_rounds=5)
    finally:
        gc.unfreeze()
    figures = printed(capsys)
    assert {"sessions.1000.throughput", "sessions.1000.latency", "sessions.1000.bytes_over_state"} <= figures.keys()
    assert not any("million" in name for name in figures)


def _one(token: int) -> tuple[np.ndarray, np.ndarray]:
    return np.array([[token]]), np.ones(1, np.int32)


@pytest.mark.skipif(
    find_program("redis-server") is None, reason="redis-server is not installed (Debian package redis-server)"
)
def test_workers_are_held_against_one_process(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Messages and tokens, from both servers, on as many connections as streams."""
    cases = [
        workers.Case("predict", Load("predict", 3, 3, 5), 0.0),
        workers.Case("generate", Load("generate", 3, 3, 5), 0.0),
    ]
    with running_redis(tmp_path) as store:
        workers.compare_workers("workers.tiny", bundle, store, cases, 1)
    figures = printed(capsys)
    for name in ("predict", "generate"):
        one, several, over = (figures[f"workers.tiny.{name}{end}"] for end in (".one", ".several", "_over_one"))
        assert over == pytest.approx(several / one, rel=1e-3)
