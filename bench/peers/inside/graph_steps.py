"""A bundle's two graphs run for a batch of sequences, whose states are kept here by sequence id.

This and its neighbours run inside a peer's own environment: they import numpy, onnxruntime and the peer, nothing of
ours.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime


class Sequences:
    """At most `max_sequences` at once; rows of preallocated arrays, so that a batch is one gather and one scatter."""

    def __init__(self, bundle: Path, num_threads: int, num_candidates: int, max_sequences: int = 1024) -> None:
        manifest = json.loads((bundle / "manifest.json").read_text())
        self._num_candidates = np.array([num_candidates], np.int64)
        self._core = _open(bundle / "core.onnx", num_threads)
        self._head = _open(bundle / "head.onnx", num_threads)
        self._fetched_only = onnxruntime.RunOptions()
        self._fetched_only.only_execute_path_to_fetches = True
        tensors = manifest["state"]
        self._inputs = [tensor["name"] for tensor in tensors]
        self._outputs = ["hidden", *(f"{name}_next" for name in self._inputs)]
        before = [np.full((1, *t["shape"]), t["initial"], t["dtype"]) for t in tensors]
        _, self._fresh = self._advance(np.array([manifest["start_id"]]), before)
        self._arenas = [np.repeat(state, max_sequences, 0) for state in self._fresh]
        self._rows: dict[int, int] = {}
        self._free = list(range(max_sequences))

    def start(self, sequence: int) -> None:
        """A fresh sequence, also under an id that is in use."""
        row = self._rows[sequence] if sequence in self._rows else self._free.pop()
        self._rows[sequence] = row
        for arena, state in zip(self._arenas, self._fresh, strict=True):
            arena[row] = state[0]

    def end(self, sequence: int) -> None:
        self._free.append(self._rows.pop(sequence))

    def step(self, sequences: list[int], tokens_B: np.ndarray) -> np.ndarray:
        """Feeds each sequence its token; the likeliest next tokens [B, num_candidates] int64. KeyError: not started."""
        rows = [self._rows[sequence] for sequence in sequences]
        hidden_BH, state = self._advance(tokens_B, [arena[rows] for arena in self._arenas])
        for arena, array in zip(self._arenas, state, strict=True):
            arena[rows] = array
        feed = {
            "hidden": hidden_BH,
            "targets": np.zeros(0, np.int64),
            "temperatures": np.zeros(0, np.float32),
            "num_candidates": self._num_candidates,
        }
        (candidates_BK,) = self._head.run(["candidate_ids"], feed, self._fetched_only)
        return np.asarray(candidates_BK)

    def _advance(self, tokens_B: np.ndarray, state: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        feed = {"ids": tokens_B[:, None], "lengths": np.ones(len(tokens_B), np.int32)}
        feed |= dict(zip(self._inputs, state, strict=True))
        hidden_B1H, *state_next = self._core.run(self._outputs, feed)
        return hidden_B1H[:, 0], state_next


def _open(path: Path, num_threads: int) -> onnxruntime.InferenceSession:
    """As our server opens it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
