"""Checks that a bundle predicts as well after a fresh start as after a long past, and the other way round.

A recurrent network can have states that it never leaves, at a loss far above its usual one. A comparison of graph and
network does not show them: both compute the same. So sessions begin at many places of held-out text, as they begin on
the server, and their loss is compared with that of a single session that has read everything before.
Legend: N tokens, S starts, T steps of a start.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from carousel.bundle.layout import Array, StateBatch
from carousel.engine.model import StepModel
from carousel_export.held_out import HeldOutText
from carousel_export.parity import Check

NUM_STARTS = 128
WARM_UP = 64  # tokens that a start reads before it is judged
JUDGED = 64
MAX_READ = 8_192  # tokens that the long session reads
SEGMENT = 256
MAX_COST = 1.0  # nats per token, over JUDGED tokens; two good starts differ by a tenth of it

Losses = npt.NDArray[np.float64]


def check_starts(served: StepModel, text: HeldOutText, max_cost: float) -> tuple[Check, ...]:
    """Returns two checks, or none if the text is too short for a start."""
    ids_N = text.ids_N[:MAX_READ]
    if len(ids_N) < WARM_UP + JUDGED:
        return ()
    starts_S = np.unique(np.linspace(0, len(ids_N) - WARM_UP - JUDGED, NUM_STARTS).astype(np.int64))
    carried_N = _read(served, np.concatenate([[text.start_id], ids_N])[None])[0]
    rows_ST = ids_N[starts_S[:, None] + np.arange(WARM_UP + JUDGED)]
    begins_S1 = np.full((len(starts_S), 1), text.start_id, np.int64)
    fresh_ST = _read(served, np.concatenate([begins_S1, rows_ST], axis=1))
    carried_SJ = carried_N[starts_S[:, None] + np.arange(WARM_UP, WARM_UP + JUDGED)]
    cost_S = fresh_ST[:, WARM_UP:].mean(1) - carried_SJ.mean(1)
    return (
        Check(f"nats that the worst of {len(starts_S)} fresh starts costs", _worst(cost_S), max_cost),
        Check("nats that carried state costs there at worst", _worst(-cost_S), max_cost),
    )


def _worst(cost_S: Losses) -> float:
    """Returns the highest cost, at least 0. NaN stays NaN."""
    return float(np.maximum(cost_S, 0.0).max())


def _read(served: StepModel, ids_SN: Array) -> Losses:
    """Returns losses_SN of every token but the first, each predicted after all tokens before it in its row."""
    num_rows, losses = len(ids_SN), []
    state = served.layout.initial(num_rows)
    for inputs_ST, targets_ST in _segments(ids_SN, max(1, SEGMENT // num_rows)):
        losses_ST, state = _step(served, inputs_ST, targets_ST, state)
        losses.append(losses_ST)
    return np.concatenate(losses, axis=1)


def _segments(ids_SN: Array, num_steps: int) -> Iterator[tuple[Array, Array]]:
    for start in range(0, ids_SN.shape[1] - 1, num_steps):
        window_SN = ids_SN[:, start : start + num_steps + 1]
        yield np.ascontiguousarray(window_SN[:, :-1]), window_SN[:, 1:]


def _step(served: StepModel, inputs_ST: Array, targets_ST: Array, state: StateBatch) -> tuple[Losses, StateBatch]:
    lengths_S = np.full(len(inputs_ST), inputs_ST.shape[1], np.int32)
    hidden_STH, state = served.core(inputs_ST, lengths_S, state)
    rows_NH = np.asarray(hidden_STH).reshape(targets_ST.size, -1)
    log_probs_N = served.score(rows_NH, np.ascontiguousarray(targets_ST).reshape(-1)).log_probs_N
    return -np.asarray(log_probs_N, np.float64).reshape(targets_ST.shape), state
