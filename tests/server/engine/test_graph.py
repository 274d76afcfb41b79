"""A graph gives the same bits wherever its rows lie; those on a device stay there until somebody looks at them."""

import numpy as np
import onnxruntime
import pytest
from prometheus_client import CollectorRegistry
from tests import bundles
from tests.bounds import make_bounds

from carousel.bundle.layout import Array, Rows, StateBatch
from carousel.bundle.manifest import CORE_FILE, Bundle
from carousel.engine.engine import Engine
from carousel.engine.graph import DeviceRows, Execution, Graph, available_providers
from carousel.engine.jobs import Ask, Job, Step, Work
from carousel.engine.model import OnnxModel
from carousel.engine.runner import Runner
from carousel.errors import ModelFailed, ProviderUnavailable
from carousel.metrics import Metrics
from carousel.turns import Ended, Event, Generate, Predict, Sampling, Score, Scored, Snapshot, Turn

GREEDY = Sampling(seed=0, temperature=0)
ONES_4 = np.ones(4, np.int32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    directory = tmp_path_factory.mktemp("bundle")
    bundles.write_bundle(directory)
    return Bundle.load(directory)


@pytest.fixture(scope="module")
def plain(bundle: Bundle) -> OnnxModel:
    return OnnxModel(bundle)


@pytest.fixture(scope="module")
def bound(bundle: Bundle) -> OnnxModel:
    """Its rows go the way of a device's, though the device is the processor."""
    return OnnxModel(bundle, device="cpu")


def ids(*tokens: int) -> Array:
    return np.array(tokens, np.int64)[:, None]


def is_fetched(rows: object) -> bool:
    return "_host" in vars(rows)


def test_steps_on_a_device_have_the_same_bits_and_fetch_nothing(plain: OnnxModel, bound: OnnxModel) -> None:
    """Ten steps, state handed on as it came: hidden vectors and states agree, and were not looked at on the way."""
    state, stays = plain.layout.initial(4), bound.layout.initial(4)
    for token in range(10):
        hidden_B1H, state = plain.core(ids(token, 7, 1, 2), ONES_4, state)
        before = stays
        there_B1H, stays = bound.core(ids(token, 7, 1, 2), ONES_4, stays)
        assert all(isinstance(rows, DeviceRows) for rows in (there_B1H, *stays))
        assert token == 0 or not any(is_fetched(rows) for rows in before)
    for rows, expected in zip((there_B1H, *stays), (hidden_B1H, *state), strict=True):
        assert rows.shape == expected.shape
        assert isinstance(rows, DeviceRows)
        assert len(rows) == 4
        assert np.asarray(rows).tobytes() == np.asarray(expected).tobytes()
        assert rows[2].tobytes() == expected[2].tobytes()


def test_every_answer_of_the_head_takes_vectors_from_the_device(plain: OnnxModel, bound: OnnxModel) -> None:
    """Likeliest, candidates, logits and scores are those of the same vectors on the host, on which they end up."""
    start = plain.layout.initial(4)
    on_host = plain.core(ids(3, 1, 4, 1), ONES_4, start)[0][:, 0]
    there = bound.core(ids(3, 1, 4, 1), ONES_4, start)[0].reshape(on_host.shape)
    targets_N, hot_N = np.array([5, 9, 2, 6]), np.array([0.1, 0.5, 1, 2], np.float32)
    for one, other in (
        (plain.likeliest(on_host), bound.likeliest(there)),
        (plain.candidates(on_host, 5), bound.candidates(there, 5)),
        ((plain.logits(on_host),), (bound.logits(there),)),
        ((plain.probabilities(on_host, hot_N),), (bound.probabilities(there, hot_N),)),
        (plain.score(on_host, targets_N), bound.score(there, targets_N)),
    ):
        assert all(isinstance(array, np.ndarray) for array in other)
        assert [array.tobytes() for array in one] == [array.tobytes() for array in other]
    assert not is_fetched(there)


def test_arrays_of_any_stride_are_taken(plain: OnnxModel, bound: OnnxModel) -> None:
    """A state that is every second row of something larger gives what its copy gives."""
    random = np.random.default_rng(3)
    wide = tuple(random.normal(size=(8, *tensor.shape)).astype(np.float32) for tensor in plain.layout.tensors)
    expected, _ = plain.core(ids(1, 2, 3, 4), ONES_4, tuple(array[::2].copy() for array in wide))
    found, _ = bound.core(ids(1, 2, 3, 4), ONES_4, tuple(array[::2] for array in wide))
    assert np.asarray(found).tobytes() == np.asarray(expected).tobytes()


async def answers(model: OnnxModel) -> list[list[object]]:
    """Turns of all kinds that join and leave one another in four lanes, each one's answers and its end."""
    engine = Engine(model, 0, make_bounds(max_lanes=4, max_chunk_tokens=5), Metrics(CollectorRegistry()))
    await engine.start()
    try:
        first = [
            Turn(engine.start_snapshot, tuple(range(length)), goal)
            for length in (1, 3, 12)
            for goal in (Generate(GREEDY, 4 + length), Generate(Sampling(seed=5), 9), Predict(3), Score())
        ]
        ended = [await engine.finish(turn) for turn in first[:2]]
        again = [Turn(end.snapshot, (8,), Generate(GREEDY, 6)) for _, end in ended]
        tickets = [engine.submit(turn) for turn in (*first, *again)]
        found = []
        for ticket in tickets:
            events: list[Event] = []
            while not events or not isinstance(events[-1], Ended):
                events += await ticket.next_events()
            found.append([part for event in events for part in _bits(event)])
        return found
    finally:
        await engine.stop()


def _bits(event: Event) -> tuple[object, ...]:
    """Scores token by token, since how many come together depends on how long steps take."""
    if isinstance(event, Ended):
        snapshot = event.snapshot
        return (event.reason, snapshot.position, *(array.tobytes() for array in (*snapshot.state, snapshot.hidden_H)))
    if isinstance(event, Scored):
        return tuple(zip(event.ids, event.log_probabilities, event.ranks, strict=True))
    return (event,)


async def test_an_engine_beside_a_device_answers_the_same(plain: OnnxModel, bound: OnnxModel) -> None:
    """Lanes that join, leave and are taken up again get the same tokens, scores and snapshots, bit for bit."""
    assert await answers(bound) == await answers(plain)


def lane_work(lane: int, start: Snapshot, *, is_last: bool) -> Work:
    job = Job(Turn(start, (1,), Generate(GREEDY, 9)), penalty_window=4)
    job.lane = lane
    return Work(lane, (1,), Ask.NOTHING if is_last else Ask.LIKELIEST, is_last, job)


@pytest.mark.parametrize("is_last", [False, True])
def test_a_broken_row_on_a_device_fails_alone(bundle: Bundle, is_last: bool) -> None:
    """Vectors that are not finite are found in the answer, or when the row is saved; the next lane goes on."""

    class Breaking(OnnxModel):
        def core(self, ids_BT: Array, lengths_B: Array, state: StateBatch) -> tuple[Rows, StateBatch]:
            hidden_BTH, after = super().core(ids_BT, lengths_B, state)
            broken = np.asarray(hidden_BTH).copy()
            broken[0] = np.nan
            return DeviceRows(onnxruntime.OrtValue.ortvalue_from_numpy(broken), broken.shape), after

    model = Breaking(bundle, device="cpu")
    start = Snapshot(0, tuple(array[0] for array in model.layout.initial(1)), np.zeros(12, np.float32))
    works = tuple(lane_work(lane, start, is_last=is_last) for lane in range(2))
    broken, good = Runner(model).run(Step(tuple(work.job for work in works), works))
    assert isinstance(broken.error, ModelFailed)
    assert broken.snapshot is None
    assert good.error is None
    assert (good.snapshot is not None) is is_last


def test_a_graph_says_where_it_runs(bundle: Bundle) -> None:
    """On a processor nothing is bound: what stays is plain arrays."""
    graph = Graph(CORE_FILE, bundle.read_graph(CORE_FILE), Execution())
    assert graph.provider == "cpu"
    layout = bundle.manifest.state
    feed = {"ids": ids(1), "lengths": ONES_4[:1]} | layout.feed(layout.initial(1))
    assert all(isinstance(rows, np.ndarray) for rows in graph.run_staying(layout.output_names(), feed))


def test_a_provider_that_is_missing_is_an_error_when_asked_for_alone() -> None:
    """Alone it is ProviderUnavailable that names it and what there is; in a list the next one is taken."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this installation has CUDA")
    with pytest.raises(ProviderUnavailable, match="cuda.*there is: cpu"):
        available_providers(["cuda"])
    assert available_providers(["cuda", "cpu"]) == ["cpu"]
    assert available_providers(["cpu"]) == ["cpu"]


@pytest.mark.parametrize("wanted", [["tpu"], []])
def test_a_provider_that_nobody_knows_is_an_error(wanted: list[str]) -> None:
    """Neither an unknown name nor no name at all gives a model."""
    with pytest.raises(ProviderUnavailable):
        available_providers(wanted)
