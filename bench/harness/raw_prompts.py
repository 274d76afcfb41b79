"""Long inputs on a bundle's graphs in a bare loop, no server and no text."""

import time
from dataclasses import dataclass

import numpy as np

from carousel.bundle.layout import Array
from carousel.engine.model import OnnxModel


@dataclass(frozen=True, slots=True)
class Pass:
    """Once over all sequences. The log-probability, in nats, is 0 where tokens were fed alone."""

    seconds: float
    log_probability: float


class RawPrompts:
    """The bare loop: B sequences of T tokens each, from the start token on."""

    def __init__(self, model: OnnxModel, start_id: int, ids_BT: Array) -> None:
        self._model = model
        self._ids_BT = ids_BT
        starts_B1 = np.full((len(ids_BT), 1), start_id)
        hidden_B1H, self._state = model.core(starts_B1, _lengths(starts_B1), model.layout.initial(len(ids_BT)))
        self._hidden_BH = hidden_B1H[:, 0]

    def run(self, kind: str, chunk: int) -> Pass:
        """Once over all sequences, `chunk` tokens of each in a call."""
        state, last_BH, log_probability = self._state, self._hidden_BH, 0.0
        started = time.perf_counter()
        for at in range(0, self._ids_BT.shape[1], chunk):
            ids_BC = self._ids_BT[:, at : at + chunk]
            hidden_BCH, state = self._model.core(ids_BC, _lengths(ids_BC), state)
            if kind == "score":  # a token is rated by the hidden vector before it
                before_BCH = np.concatenate([last_BH[:, None], hidden_BCH[:, :-1]], axis=1)
                rated = self._model.score(before_BCH.reshape(-1, before_BCH.shape[-1]), ids_BC.reshape(-1))
                log_probability += float(rated.log_probs_N.sum(dtype=np.float64))
                last_BH = hidden_BCH[:, -1]
        return Pass(time.perf_counter() - started, log_probability)


def _lengths(ids_BT: Array) -> Array:
    return np.full(len(ids_BT), ids_BT.shape[1], np.int32)
