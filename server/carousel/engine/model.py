"""One step of the model on a batch of rows: the seam behind which onnxruntime runs. Nothing else imports it.

Legend: B rows (lanes), T tokens, H hidden width, N rows of hidden vectors, V vocabulary, K candidates.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

# Importing onnxruntime starts a thread that reports its use to its maker; only this, and only before, prevents it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

from carousel.bundle import graphs
from carousel.bundle.layout import Array, StateBatch, StateLayout
from carousel.bundle.manifest import CORE_FILE, HEAD_FILE, Bundle
from carousel.errors import BundleInvalid, ProviderUnavailable

_NO_TARGETS = np.zeros(0, np.int64)
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_HEAD_OUTPUTS = {
    graphs.LOGITS,
    graphs.CANDIDATE_LOGITS,
    graphs.CANDIDATE_IDS,
    graphs.LOG_NORMALIZER,
    graphs.TARGET_LOGITS,
    graphs.TARGET_RANKS,
}


class Candidates(NamedTuple):
    """The K likeliest next tokens of N rows, likeliest first."""

    ids_NK: Array
    logits_NK: Array
    log_normalizer_N: Array

    @property
    def log_probs_NK(self) -> Array:
        return np.asarray(self.logits_NK - self.log_normalizer_N[:, None])


class Likeliest(NamedTuple):
    """The likeliest next token of N rows, the lower id among equals."""

    ids_N: Array
    logits_N: Array


class TargetScores(NamedTuple):
    """How the model rates given next tokens: log-probability in nats, rank counted from 1."""

    log_probs_N: Array
    ranks_N: Array


class StepModel(Protocol):
    """A stateless function over batches; the caller carries the state.

    Row b of every result depends on row b of the arguments alone, bit for bit, whatever B and the padding are. Calls
    block and must come from one thread at a time. Arguments are not kept or changed; results belong to the caller.
    """

    layout: StateLayout
    vocabulary_size: int

    def core(self, ids_BT: Array, lengths_B: Array, state: StateBatch) -> tuple[Array, StateBatch]:
        """Consume lengths_B[b] >= 1 tokens of each row: hidden_BTH (rows past a length are undefined), new state."""
        ...

    def logits(self, hidden_NH: Array) -> Array:
        """All logits_NV."""
        ...

    def likeliest(self, hidden_NH: Array) -> Likeliest: ...

    def candidates(self, hidden_NH: Array, num_candidates: int) -> Candidates: ...

    def score(self, hidden_NH: Array, targets_N: Array) -> TargetScores: ...


@dataclass(frozen=True, slots=True)
class Execution:
    """How graphs are run. `num_threads` is the size of onnxruntime's pool, 0 leaves it to onnxruntime."""

    providers: tuple[str, ...] = ("cpu",)
    num_threads: int = 1


class OnnxModel:
    """The StepModel of a bundle. Raises BundleInvalid or ProviderUnavailable when it cannot be built."""

    runtime_version: str = onnxruntime.__version__

    def __init__(self, bundle: Bundle, execution: Execution = Execution()) -> None:
        self.layout = bundle.manifest.state
        self.vocabulary_size = bundle.manifest.vocabulary_size
        self._core = _open(CORE_FILE, bundle.read_graph(CORE_FILE), execution)
        self._head = _open(HEAD_FILE, bundle.read_graph(HEAD_FILE), execution)
        self._core_outputs = [graphs.HIDDEN, *self.layout.output_names()]
        self._check_names()

    @property
    def provider(self) -> str:
        """The short name of the execution provider that is in use."""
        return next(short for short, name in PROVIDERS.items() if name == self._core.get_providers()[0])

    def __repr__(self) -> str:
        return f"OnnxModel({self.provider}, {len(self.layout.tensors)} state tensors, V={self.vocabulary_size})"

    def core(self, ids_BT: Array, lengths_B: Array, state: StateBatch) -> tuple[Array, StateBatch]:
        feed = {graphs.IDS: ids_BT, graphs.LENGTHS: lengths_B} | self.layout.feed(state)
        hidden_BTH, *state_next = self._core.run(self._core_outputs, feed)
        return hidden_BTH, tuple(state_next)

    def logits(self, hidden_NH: Array) -> Array:
        return np.asarray(self._run_head([graphs.LOGITS], hidden_NH)[0])

    def likeliest(self, hidden_NH: Array) -> Likeliest:
        ids_N1, logits_N1 = self._run_head([graphs.CANDIDATE_IDS, graphs.CANDIDATE_LOGITS], hidden_NH)
        return Likeliest(ids_N1[:, 0], logits_N1[:, 0])

    def candidates(self, hidden_NH: Array, num_candidates: int) -> Candidates:
        names = [graphs.CANDIDATE_IDS, graphs.CANDIDATE_LOGITS, graphs.LOG_NORMALIZER]
        return Candidates(*self._run_head(names, hidden_NH, num_candidates=num_candidates))

    def score(self, hidden_NH: Array, targets_N: Array) -> TargetScores:
        names = [graphs.TARGET_LOGITS, graphs.LOG_NORMALIZER, graphs.TARGET_RANKS]
        logits_N, log_normalizer_N, above_N = self._run_head(names, hidden_NH, targets_N=targets_N)
        return TargetScores(logits_N - log_normalizer_N, above_N + 1)

    def _run_head(
        self, outputs: list[str], hidden_NH: Array, *, targets_N: Array | None = None, num_candidates: int = 1
    ) -> list[Array]:
        feed = {
            graphs.HIDDEN: hidden_NH,
            graphs.TARGETS: _NO_TARGETS if targets_N is None else targets_N,
            graphs.NUM_CANDIDATES: np.array([min(num_candidates, self.vocabulary_size)], np.int64),
        }
        result: list[Array] = self._head.run(outputs, feed)
        return result

    def _check_names(self) -> None:
        """The graphs must speak the names that the manifest and the contract give."""
        feeds = {graphs.IDS, graphs.LENGTHS, *(tensor.name for tensor in self.layout.tensors)}
        _require(CORE_FILE, "inputs", feeds, self._core.get_inputs())
        _require(CORE_FILE, "outputs", set(self._core_outputs), self._core.get_outputs())
        _require(HEAD_FILE, "inputs", {graphs.HIDDEN, graphs.TARGETS, graphs.NUM_CANDIDATES}, self._head.get_inputs())
        _require(HEAD_FILE, "outputs", _HEAD_OUTPUTS, self._head.get_outputs())
        width = next(node.shape[-1] for node in self._head.get_outputs() if node.name == graphs.LOGITS)
        if width != self.vocabulary_size:
            raise BundleInvalid(f"{HEAD_FILE} gives {width} logits; the vocabulary has {self.vocabulary_size} tokens")


def available_providers(wanted: Sequence[str]) -> list[str]:
    """Those of `wanted` (short names, in order) that this onnxruntime has. Raises ProviderUnavailable if none."""
    installed = set(onnxruntime.get_available_providers())
    chosen = [name for name in wanted if PROVIDERS.get(name) in installed]
    if not chosen:
        have = ", ".join(short for short, name in PROVIDERS.items() if name in installed)
        raise ProviderUnavailable(f"execution provider {', '.join(wanted)} is not available here; there is: {have}")
    return chosen


def _open(name: str, graph: bytes, execution: Execution) -> Any:
    if "cuda" in execution.providers and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA and cuDNN as they come in Python packages
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = execution.num_threads
    options.inter_op_num_threads = 1
    # A pool that spins between steps would take the event loop's core.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Weights lie inside the graph; a reference to any other file must fail, wherever it points.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", "/nonexistent")
    providers = [PROVIDERS[short] for short in available_providers(execution.providers)]
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=providers)
    except Exception as error:  # onnxruntime's own exceptions share no base but Exception
        raise BundleInvalid(f"{name}: onnxruntime cannot load it: {error}") from error
    session._model_bytes = None  # kept to begin anew with other providers, and as large as the weights
    if session.get_providers()[0] != providers[0] and len(execution.providers) == 1:
        raise ProviderUnavailable(f"execution provider {execution.providers[0]} is installed but does not start here")
    return session


def _require(file: str, what: str, names: set[str], nodes: Sequence[Any]) -> None:
    missing = names - {node.name for node in nodes}
    if missing:
        raise BundleInvalid(f"{file}: {what} {', '.join(sorted(missing))} that the manifest needs are not in the graph")
