"""The benches of single predictions, on a tiny model: every way to ask answers rightly, and what they print adds up."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from bench.harness.echo_server import echo_server
from bench.harness.ladder_server import make_message, serving
from bench.harness.load import Load, per_second, put_load
from bench.harness.server_process import ServerProcess, serve
from bench.peers.client import trace
from bench.peers.golden import NUM_SEQUENCES, NUM_TOKENS, find_difference, golden_answers
from bench.serving.crossings import Profiler, count_crossings
from bench.serving.ladder import Cost, Rung, measure, measure_ladder, print_rung
from tests.bundles import write_bundle

from bench.serving import predict
from carousel.bundle.manifest import Bundle, file_digest
from carousel.engine.step_place import StepPlace
from carousel.rpc.prediction_bytes import PredictionBytes
from carousel.sessions.resident import Named

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundle") / "tiny"
    write_bundle(directory)
    return directory


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[ServerProcess]:
    with serve(bundle) as running:
        yield running


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    lines = map(json.loads, capsys.readouterr().out.splitlines())
    return {line["name"]: line["value"] for line in lines}


@pytest.mark.parametrize(
    "load",
    [
        Load("predict", 5, 2, 7),
        Load("predict", 5, 1, 7, has_session=False),
        Load("many", 5, 1, 7, num_shared_streams=1),
        Load("many", 5, 2, 7, num_shared_streams=3),
    ],
    ids=lambda load: f"{load.kind}-{load.num_connections}",
)
def test_every_answer_has_its_time(server: ServerProcess, load: Load) -> None:
    """Of each sequence the start and seven answers, in order; the client's own time is said."""
    found = put_load(server.grpc_address, load)
    assert [len(times) for times in found["seconds"]] == [8] * 5
    assert all(times == sorted(times) for times in found["seconds"])
    assert found["client_seconds"] > 0
    assert found["response_bytes"] > 50


def test_a_refused_item_is_no_answer(bundle: Path) -> None:
    """The client ends with what the server says."""
    with (
        serve(bundle, "--set", "max_sequences_per_stream=2") as server,
        pytest.raises(subprocess.CalledProcessError) as caught,
    ):
        put_load(server.grpc_address, Load("many", 3, 1, 5, num_shared_streams=1))
    assert "sequences are open on this stream" in caught.value.stderr


def test_messages_are_counted_from_the_common_start() -> None:
    """Two streams of two messages each, in half a second."""
    assert per_second([[1.0, 1.2, 1.4], [1.1, 1.3, 1.5]]) == 8


def test_a_share_is_of_the_echo_in_the_same_round(
    server: ServerProcess, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Served and echo in turn, on as many connections; the aim is the case's."""
    load = Load("predict", 3, 1, 10)
    with echo_server() as echo:
        predict.measure(server, echo, predict.Case("tiny", load, 0.0), 2, load)
    figures = printed(capsys)
    assert figures["predict.small.tiny"] > 0
    assert {"predict.small.tiny.messages", "predict.small.tiny.server"} <= figures.keys()


async def test_the_columns_of_the_ladder_predict(bundle: Path) -> None:
    """The rung without sessions does the model's work: it answers as raw onnxruntime does."""
    async with serving("columns", bundle) as address, grpc.aio.insecure_channel(address) as channel:
        answers = await trace(channel, "predict", NUM_SEQUENCES, NUM_TOKENS)
    assert find_difference(answers, golden_answers(bundle)) == ""


def test_rungs_that_differ_in_cost_alone_give_the_same_bytes(bundle: Path) -> None:
    """A message made anew, and prepared pieces."""
    tokenizer = Bundle.load(bundle).tokenizer
    named = Named([7, 200, 3], [-0.5, -1.5, -2.25], 300, 0)
    assert make_message(list(tokenizer.texts), named) == PredictionBytes(tokenizer).encode(named)


def test_a_cost_is_of_one_message(server: ServerProcess) -> None:
    """Speed and both processor times, each above nothing and below the whole of it."""
    cost = measure(Rung("held", server.grpc_address, server.process.pid, Load("predict", 4, 1, 200)))
    assert cost.speed > 0
    assert 0 < cost.client_us < 1e6
    assert 0 < cost.server_us < 1e6


def test_shares_are_medians_over_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    """Each round against its own echo."""
    rounds, floors = ([Cost(speed, 10.0, 20.0) for speed in many] for many in ((50, 30, 90), (100, 100, 90)))
    print_rung("held", rounds, floors)
    assert printed(capsys) == {
        "ladder.held": 0.5,
        "ladder.held.messages": 50,
        "ladder.held.client": 10,
        "ladder.held.server": 20,
    }


def test_the_ladder_has_every_rung(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the echo to the stores that write every turn."""
    measure_ladder(bundle, tmp_path, 1, 4, num_many=80)
    figures = printed(capsys)
    rungs = {"echo", "messages", "pieces", "columns", "carried", "held", "sqlite"}
    rungs |= {"many_on_1", "many_on_2", "many_on_8", "80_on_2"}
    assert {f"ladder.{name}{what}" for name in rungs for what in ("", ".messages", ".client", ".server")} <= set(
        figures
    )
    assert figures["ladder.echo"] == 1


async def test_only_what_a_message_does_is_counted() -> None:
    """In the loop and in a thread, each function entered; not what a task of the background does meanwhile, nor what
    comes after."""

    async def beat() -> None:
        while True:
            assert file_digest(Path(__file__))
            await asyncio.sleep(0)

    async def ask() -> None:
        assert StepPlace(1).is_in_loop is False
        thread = threading.Thread(target=StepPlace, args=(1,))
        thread.start()
        await asyncio.sleep(0)
        thread.join()

    profiler = Profiler()
    with profiler.installed():
        beating = asyncio.create_task(beat())
        profiler.leave_out({beating})
        entered = await profiler.watch(ask)
        StepPlace(1)
        beating.cancel()
    assert entered == {"engine/step_place.py": 3}
    assert sys.getprofile() is None


def test_the_files_of_a_message_are_counted(bundle: Path) -> None:
    """What every message of a kind crosses, in both threads: held sequences their columns, generation the lanes."""
    found = count_crossings(bundle, num_warm=5)
    assert found.keys() == {"predict", "predict_many", "generate"}
    assert all(
        {"rpc/servicer.py", "engine/engine.py", "engine/model.py"} <= entered.keys() for entered in found.values()
    )
    assert "engine/columns.py" in found["predict"].keys() & found["predict_many"].keys()
    assert "sessions/many.py" in found["predict_many"]
    assert "engine/runner.py" in found["generate"].keys() - found["predict"].keys()
