"""Starting, stopping and failing to start, as an operator sees it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest
from tests.server_process import ServerProcess, serve

from carousel.client import Client, ServerError

pytestmark = pytest.mark.slow

ENDLESS = 16_000


def _start_endless(address: str, on_first: threading.Event, endings: list[object]) -> threading.Thread:
    """Starts a client thread that generates until the server ends it; the error goes into `endings`."""

    def run() -> None:
        try:
            with Client(address) as client:
                for piece in client.generate("The ", max_tokens=ENDLESS, temperature=0.5):
                    on_first.set()
                    if piece.finished is not None:
                        endings.append(piece.finished)
        except ServerError as error:
            endings.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    on_first.wait(30)
    return thread


def test_sigterm_lets_running_turns_finish_and_refuses_new_ones(bundle: Path) -> None:
    """The running stream gets all its tokens, a new one gets UNAVAILABLE, health reports not ready, and the exit code
    is 0."""
    with serve(bundle) as server, Client(server.grpc_address) as client:
        running = iter(client.generate("The ", max_tokens=6_000, temperature=0))
        next(running)
        server.process.send_signal(signal.SIGTERM)
        _wait_until_not_serving(client)
        with pytest.raises(ServerError) as refused:
            list(client.generate("The ", max_tokens=1))
        assert refused.value.code == "UNAVAILABLE"
        end = list(running)[-1].finished
        assert end is not None
        assert end.num_generated_tokens == 6_000
        assert server.process.wait(30) == 0


def _wait_until_not_serving(client: Client) -> None:
    while client.is_serving():
        pass


def test_what_is_not_done_by_the_deadline_ends_with_unavailable(bundle: Path) -> None:
    """After drain_seconds a running stream and an idle Predict end with UNAVAILABLE; the exit code is still 0."""
    with serve(bundle, "--set", "drain_seconds=0.3") as server, Client(server.grpc_address) as client:
        first, endings = threading.Event(), list[object]()
        thread = _start_endless(server.grpc_address, first, endings)
        with pytest.raises(ServerError) as ended:
            _predict_across_the_end(client, server)
        thread.join(30)
    assert [ending.code for ending in endings if isinstance(ending, ServerError)] == ["UNAVAILABLE"]
    assert ended.value.code == "UNAVAILABLE"


def _predict_across_the_end(client: Client, server: ServerProcess) -> None:
    with client.predictor() as predict:
        predict("The ")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        predict("again")


def test_a_second_sigterm_exits_at_once(bundle: Path) -> None:
    """While it drains, another SIGTERM ends the process by the signal; the first one's message announced that."""
    with serve(bundle, "--set", "drain_seconds=60") as server, Client(server.grpc_address) as client:
        first = threading.Event()
        thread = _start_endless(server.grpc_address, first, [])
        server.process.send_signal(signal.SIGTERM)
        _wait_until_not_serving(client)
        assert server.process.stdout is not None
        told = server.process.stdout.readline()
        assert "up to 60 s" in told
        assert "A second Ctrl-C or SIGTERM ends the server at once" in told
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == -signal.SIGTERM
        thread.join(30)


def test_a_drain_that_nobody_reads_is_a_drain(bundle: Path) -> None:
    """Where standard output is a closed pipe, the server still ends normally."""
    with serve(bundle) as server:
        output, server.process.stdout = server.process.stdout, None
        assert output is not None
        output.close()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0


def test_garbage_on_the_port_disturbs_nobody(server: ServerProcess) -> None:
    """After random bytes and a half-open connection, the server still answers."""
    host, port = server.grpc_address.split(":")
    with socket.create_connection((host, int(port))) as first, socket.create_connection((host, int(port))) as second:
        first.sendall(os.urandom(4096))
        second.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + os.urandom(64))
        with Client(server.grpc_address) as client:
            assert client.is_serving()
            assert list(client.generate("The ", max_tokens=3))[-1].finished is not None


def _start_and_fail(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "carousel", "serve", *arguments, "--http", "127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def test_an_edited_bundle_is_refused_by_file_name(bundle: Path, tmp_path: Path) -> None:
    """One changed byte of a graph: exit code 2 and a line that names the file."""
    edited = tmp_path / "edited"
    shutil.copytree(bundle, edited)
    graph = edited / "head.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    code, errors = _start_and_fail(str(edited), "--listen", "127.0.0.1:0")
    assert code == 2
    assert "head.onnx: digest mismatch" in errors
    assert "Traceback" not in errors


def test_a_missing_provider_alone_is_a_clear_error(bundle: Path) -> None:
    """`--providers cuda` without CUDA: exit code 2 and the available providers."""
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has the CUDA provider")
    code, errors = _start_and_fail(str(bundle), "--providers", "cuda", "--listen", "127.0.0.1:0")
    assert code == 2
    assert "cuda is not available here; there is: cpu" in errors


def test_a_provider_in_second_place_is_used_and_reported(bundle: Path) -> None:
    """`cuda,cpu` on a machine without CUDA serves on the CPU and reports that."""
    with serve(bundle, "--providers", "cuda,cpu") as server, Client(server.grpc_address) as client:
        assert client.model().provider in ("cpu", "cuda")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "max_lane=3"], "max_lane"),
        (["--set", "max_lanes=0"], "max_lanes"),
        (["--set", "max_lanes"], "name=value"),
        (["--listen", "nowhere"], "listen"),
    ],
)
def test_a_wrong_setting_is_named(bundle: Path, arguments: list[str], message: str) -> None:
    """Unknown and impossible settings: exit code 2 and their name."""
    code, errors = _start_and_fail(str(bundle), *arguments)
    assert code == 2
    assert message in errors
    assert "Traceback" not in errors


def test_a_taken_port_is_a_clear_error(bundle: Path, server: ServerProcess) -> None:
    """A second server on the same port does not start."""
    code, errors = _start_and_fail(str(bundle), "--listen", server.grpc_address)
    assert code == 2
    assert server.grpc_address in errors


def test_a_server_leaves_nothing_in_its_users_home(bundle: Path, tmp_path: Path) -> None:
    """No library writes caches, ids or databases while the server starts, answers and stops."""
    with serve(bundle, variables={"HOME": str(tmp_path), "XDG_CACHE_HOME": ""}) as server:
        with Client(server.grpc_address) as client:
            list(client.generate("The ", max_tokens=2))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_environment_sets_settings(bundle: Path) -> None:
    """CAROUSEL_<NAME> is read, and the command line wins over it."""
    with (
        serve(bundle, variables={"CAROUSEL_MAX_INPUT_TOKENS": "7"}) as server,
        Client(server.grpc_address) as client,
    ):
        assert client.model().limits.max_input_tokens == 7
        with pytest.raises(ServerError) as refused:
            list(client.generate("eight 8!"))
    assert refused.value.code == "INVALID_ARGUMENT"
    assert [violation.field for violation in refused.value.violations] == ["input"]


def test_no_bundle_is_a_clear_error(tmp_path: Path) -> None:
    """A directory without a manifest: exit code 2 and the path."""
    code, errors = _start_and_fail(str(tmp_path), "--listen", "127.0.0.1:0")
    assert code == 2
    assert str(tmp_path) in errors


def test_a_client_that_vanishes_frees_its_lane(bundle: Path) -> None:
    """With a single lane, a cancelled endless stream makes room for the next caller, and its session is unchanged."""
    with serve(bundle, "--set", "max_lanes=1") as server, Client(server.grpc_address) as client:
        session = client.create_session()
        channel = grpc.insecure_channel(server.grpc_address)
        with Client(server.grpc_address) as vanishing:
            next(iter(vanishing.generate("The ", max_tokens=ENDLESS, session_id=session.session_id)))
        channel.close()
        assert len(list(client.generate("A ", max_tokens=5, temperature=0))) >= 1
        assert client.get_session(session.session_id).position == 0


def test_a_deadline_that_passes_changes_nothing(server: ServerProcess) -> None:
    """The call fails with DEADLINE_EXCEEDED, and the session is unchanged."""
    with Client(server.grpc_address) as client, client.session() as session:
        session.feed("The ")
        with pytest.raises(ServerError) as late:
            list(session.generate("carousel", max_tokens=ENDLESS, timeout_seconds=0.3))
        assert late.value.code == "DEADLINE_EXCEEDED"
        session.feed("x")
        assert session.get().position == len("The x")
