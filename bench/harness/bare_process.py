"""What a server is held against: a process with the libraries, a bundle's graphs and the states of N sessions alone.

    python -m bench.harness.bare_process BUNDLE NUM_SESSIONS

Prints the seconds that loading the graphs took, then waits until its input is closed. It imports nothing of ours.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # as the server does, and as it has to be: before the import
import grpc  # noqa: F401  a server needs it
import onnxruntime


def load_graphs(bundle: Path) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    files = (bundle / "core.onnx", bundle / "head.onnx")
    return [onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"]) for file in files]


def make_states(bundle: Path, num_sessions: int) -> list[list[Any]]:
    """An array for each tensor of each session; written to, so that the memory is really there."""
    tensors = json.loads((bundle / "manifest.json").read_text())["state"]
    return [[np.ones(one["shape"], one["dtype"]) for one in tensors] for _ in range(num_sessions)]


def main(bundle: Path, num_sessions: int) -> None:
    started = time.perf_counter()
    graphs = load_graphs(bundle)
    print(time.perf_counter() - started, flush=True)
    states = make_states(bundle, num_sessions)
    print(len(graphs), "graphs,", len(states), "sessions", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
