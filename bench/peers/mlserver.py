"""MLServer with adaptive batching: a runtime of its own class that keeps the states, in one process."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from bench.harness.child_process import free_ports
from bench.peers.conversation import NUM_CANDIDATES
from bench.peers.environments import ONNXRUNTIME, prepare_environment, running

NAME = "mlserver"
PATTERNS = {"unary": "mlserver_unary"}
_INSIDE = Path(__file__).parent / "inside"
_MAX_BATCH_SECONDS = 0.001  # it waits for so long after the last request, also when nobody else is there


@contextlib.contextmanager
def serve(bundle: Path, num_threads: int, directory: Path) -> Iterator[str]:
    """Its gRPC address; `directory` holds its repository and log. Raises PeerUnavailable."""
    environment = prepare_environment("mlserver", ["mlserver==1.7.1", ONNXRUNTIME])
    grpc_port, http_port, metrics_port = free_ports(3)
    ports = {"grpc_port": grpc_port, "http_port": http_port, "metrics_port": metrics_port}
    repository = _write_repository(directory / "repository", bundle, num_threads, ports)
    command = [str(environment / "bin/mlserver"), "start", str(repository)]
    with running(command, grpc_port, os.environ | {"ORT_DISABLE_TELEMETRY": "1"}, directory / "mlserver.log"):
        yield f"127.0.0.1:{grpc_port}"


def _write_repository(repository: Path, bundle: Path, num_threads: int, ports: dict[str, int]) -> Path:
    """Settings of the server, and of the model beside its code."""
    model = repository / "carousel"
    model.mkdir(parents=True)
    server_settings = ports | {"host": "127.0.0.1", "parallel_workers": 0, "debug": False}
    extra = {"bundle": str(bundle.absolute()), "num_threads": num_threads, "num_candidates": NUM_CANDIDATES}
    model_settings = {
        "name": "carousel",
        "implementation": "mlserver_runtime.SequenceRuntime",
        "max_batch_size": 64,
        "max_batch_time": _MAX_BATCH_SECONDS,
        "parameters": {"extra": extra},
    }
    (repository / "settings.json").write_text(json.dumps(server_settings))
    (model / "model-settings.json").write_text(json.dumps(model_settings))
    for name in ("mlserver_runtime.py", "graph_steps.py"):
        shutil.copy(_INSIDE / name, model)
    return repository.absolute()
