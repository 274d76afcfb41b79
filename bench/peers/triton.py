"""NVIDIA Triton as it comes from PyPI inside nvidia-pytriton: its bundled server, started without pytriton, with the
Python backend and the sequence batcher.
"""

import contextlib
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from bench.harness.child_process import free_ports
from bench.peers.conversation import NUM_CANDIDATES
from bench.peers.environments import ONNXRUNTIME, PeerUnavailable, prepare_environment, running, site_packages

NAME = "triton_python"
PATTERNS = {
    "stream": "triton_stream",
    "unary": "triton_unary",
    "many_1": "triton_many_1",
    "many_2": "triton_many_2",
}
_STUB = "triton_python_backend_stub"
_INSIDE = Path(__file__).parent / "inside"
_CONFIGURATION = """
name: "carousel"
backend: "python"
max_batch_size: 64
input {{ name: "TOKEN" data_type: TYPE_INT64 dims: 1 }}
output {{ name: "CANDIDATES" data_type: TYPE_INT64 dims: {num_candidates} }}
sequence_batching {{
  max_sequence_idle_microseconds: 600000000
  oldest {{ max_candidate_sequences: 256 }}
}}
instance_group {{ kind: KIND_CPU count: 1 }}
parameters {{ key: "bundle" value {{ string_value: "{bundle}" }} }}
parameters {{ key: "num_threads" value {{ string_value: "{num_threads}" }} }}
parameters {{ key: "num_candidates" value {{ string_value: "{num_candidates}" }} }}
"""


@contextlib.contextmanager
def serve(bundle: Path, num_threads: int, directory: Path) -> Iterator[str]:
    """Its gRPC address; `directory` holds its repository and log. Raises PeerUnavailable."""
    environment = prepare_environment("triton", ["numpy<2", ONNXRUNTIME], ["nvidia-pytriton==0.7.0"])
    server = site_packages(environment) / "pytriton/tritonserver"
    _place_stub(server)
    repository = _write_repository(directory / "repository", bundle, num_threads)
    (port,) = free_ports(1)
    command = [str(server / "bin/tritonserver"), f"--model-repository={repository}"]
    command += [f"--backend-directory={server / 'backends'}", "--allow-http=false", "--allow-metrics=false"]
    command += ["--grpc-address=127.0.0.1", f"--grpc-port={port}"]
    with running(command, port, _variables(environment), directory / "triton.log"):
        yield f"127.0.0.1:{port}"


def _place_stub(server: Path) -> None:
    """The backend looks for the stub beside itself; the wheel has one for each Python elsewhere."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / python / _STUB
    if not stub.exists():
        raise PeerUnavailable(f"the wheel has no Python backend for Python {python}")
    if not (server / "backends/python" / _STUB).exists():
        shutil.copy2(stub, server / "backends/python")


def _write_repository(repository: Path, bundle: Path, num_threads: int) -> Path:
    version = repository / "carousel/1"
    version.mkdir(parents=True)
    shutil.copy(_INSIDE / "triton_model.py", version / "model.py")
    shutil.copy(_INSIDE / "graph_steps.py", version)
    facts = {"bundle": bundle.absolute(), "num_threads": num_threads, "num_candidates": NUM_CANDIDATES}
    (version.parent / "config.pbtxt").write_text(_CONFIGURATION.format(**facts))
    return repository.absolute()


def _variables(environment: Path) -> dict[str, str]:
    """The stub is a program of its own that loads libpython and must find the environment's packages, numpy below 2
    among them: with numpy 2 each answer arrives with no bytes."""
    libraries = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")]
    return os.environ | {
        "LD_LIBRARY_PATH": ":".join(filter(None, libraries)),
        "PYTHONPATH": str(site_packages(environment)),
        "PATH": f"{environment / 'bin'}:{os.environ.get('PATH', '')}",
        "ORT_DISABLE_TELEMETRY": "1",
    }
