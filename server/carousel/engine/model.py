"""One step of the model on a batch of rows: the interface in front of its graphs.

Legend: B rows (lanes), T tokens, H hidden width, N rows of hidden vectors, V vocabulary, K candidates.
"""

from typing import NamedTuple, Protocol

import numpy as np

from carousel.bundle import graphs
from carousel.bundle.layout import Array, Rows, StateBatch, StateLayout
from carousel.bundle.manifest import CORE_FILE, HEAD_FILE, Bundle
from carousel.engine.graph import RUNTIME_VERSION, Execution, Graph
from carousel.errors import BundleInvalid

_NO_TARGETS = np.zeros(0, np.int64)
_NO_TEMPERATURES = np.zeros(0, np.float32)
_PLAIN = Execution()
_HEAD_OUTPUTS = {
    graphs.LOGITS,
    graphs.CANDIDATE_LOGITS,
    graphs.CANDIDATE_IDS,
    graphs.LOG_NORMALIZER,
    graphs.TARGET_LOGITS,
    graphs.TARGET_RANKS,
    graphs.PROBABILITIES,
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
    """The model's scores of given next tokens: log-probability in nats, rank counted from 1."""

    log_probs_N: Array
    ranks_N: Array


class StepModel(Protocol):
    """A stateless function over batches; the caller carries the state.

    Row b of every result depends only on row b of the arguments, bit for bit, for any B and any padding. Calls block
    and must come from one thread at a time. Arguments are not kept or changed; results belong to the caller. What
    `core` returns may be on a device: passing it back costs nothing, reading it fetches it.
    """

    layout: StateLayout
    vocabulary_size: int

    def core(self, ids_BT: Array, lengths_B: Array, state: StateBatch) -> tuple[Rows, StateBatch]:
        """Consumes lengths_B[b] >= 1 tokens of each row. Returns hidden_BTH (undefined past a row's length) and the
        new state."""
        ...

    def logits(self, hidden_NH: Rows) -> Array:
        """Returns all logits_NV."""
        ...

    def probabilities(self, hidden_NH: Rows, temperatures_N: Array) -> Array:
        """Returns probabilities_NV, each row at its temperature (float32, above 0)."""
        ...

    def likeliest(self, hidden_NH: Rows) -> Likeliest: ...

    def candidates(self, hidden_NH: Rows, num_candidates: int) -> Candidates: ...

    def score(self, hidden_NH: Rows, targets_N: Array) -> TargetScores: ...


class OnnxModel:
    """A bundle's StepModel. Raises BundleInvalid or ProviderUnavailable when it cannot be built."""

    runtime_version = RUNTIME_VERSION

    def __init__(self, bundle: Bundle, execution: Execution = _PLAIN, device: str | None = None) -> None:
        self.layout = bundle.manifest.state
        self.vocabulary_size = bundle.manifest.vocabulary_size
        self._core = Graph(CORE_FILE, bundle.read_graph(CORE_FILE), execution, device)
        self._head = Graph(HEAD_FILE, bundle.read_graph(HEAD_FILE), execution, device)
        self._core_outputs = [graphs.HIDDEN, *self.layout.output_names()]
        self._check_names()
        self._check_shapes(bundle.manifest.hidden_size)

    @property
    def provider(self) -> str:
        """The short name of the execution provider in use."""
        return self._core.provider

    def __repr__(self) -> str:
        return f"OnnxModel({self.provider}, {len(self.layout.tensors)} state tensors, V={self.vocabulary_size})"

    def core(self, ids_BT: Array, lengths_B: Array, state: StateBatch) -> tuple[Rows, StateBatch]:
        feed = {graphs.IDS: ids_BT, graphs.LENGTHS: lengths_B} | self.layout.feed(state)
        hidden_BTH, *state_next = self._core.run_staying(self._core_outputs, feed)
        return hidden_BTH, tuple(state_next)

    def logits(self, hidden_NH: Rows) -> Array:
        return np.asarray(self._run_head([graphs.LOGITS], hidden_NH)[0])

    def probabilities(self, hidden_NH: Rows, temperatures_N: Array) -> Array:
        return self._run_head([graphs.PROBABILITIES], hidden_NH, temperatures_N=temperatures_N)[0]

    def likeliest(self, hidden_NH: Rows) -> Likeliest:
        ids_N1, logits_N1 = self._run_head([graphs.CANDIDATE_IDS, graphs.CANDIDATE_LOGITS], hidden_NH)
        return Likeliest(ids_N1[:, 0], logits_N1[:, 0])

    def candidates(self, hidden_NH: Rows, num_candidates: int) -> Candidates:
        names = [graphs.CANDIDATE_IDS, graphs.CANDIDATE_LOGITS, graphs.LOG_NORMALIZER]
        return Candidates(*self._run_head(names, hidden_NH, num_candidates=num_candidates))

    def score(self, hidden_NH: Rows, targets_N: Array) -> TargetScores:
        names = [graphs.TARGET_LOGITS, graphs.LOG_NORMALIZER, graphs.TARGET_RANKS]
        logits_N, log_normalizer_N, above_N = self._run_head(names, hidden_NH, targets_N=targets_N)
        return TargetScores(logits_N - log_normalizer_N, above_N + 1)

    def _run_head(
        self,
        outputs: list[str],
        hidden_NH: Rows,
        *,
        targets_N: Array = _NO_TARGETS,
        temperatures_N: Array = _NO_TEMPERATURES,
        num_candidates: int = 1,
    ) -> list[Array]:
        feed: dict[str, Rows] = {
            graphs.HIDDEN: hidden_NH,
            graphs.TARGETS: targets_N,
            graphs.TEMPERATURES: temperatures_N,
            graphs.NUM_CANDIDATES: np.array([min(num_candidates, self.vocabulary_size)], np.int64),
        }
        return self._head.run(outputs, feed)

    def _check_names(self) -> None:
        """Checks that the graphs have the names that the manifest and the contract require."""
        self._core.check_inputs({graphs.IDS, graphs.LENGTHS, *(tensor.name for tensor in self.layout.tensors)})
        self._core.check_outputs(set(self._core_outputs))
        self._head.check_inputs({graphs.HIDDEN, graphs.TARGETS, graphs.NUM_CANDIDATES, graphs.TEMPERATURES})
        self._head.check_outputs(_HEAD_OUTPUTS)

    def _check_shapes(self, hidden_size: int) -> None:
        """Checks that the manifest's sizes are those of the graphs: otherwise the first step would fail."""
        for tensor in self.layout.tensors:
            for name in (tensor.name, tensor.output_name):
                self._core.check_rows(name, tensor.shape, tensor.dtype)
        for graph, file in ((self._core, CORE_FILE), (self._head, HEAD_FILE)):
            if graph.width(graphs.HIDDEN) != hidden_size:
                found = graph.width(graphs.HIDDEN)
                raise BundleInvalid(f"{file} has hidden vectors of {found}; the manifest says {hidden_size}")
        width = self._head.width(graphs.LOGITS)
        if width != self.vocabulary_size:
            raise BundleInvalid(f"{HEAD_FILE} gives {width} logits; the vocabulary has {self.vocabulary_size} tokens")
