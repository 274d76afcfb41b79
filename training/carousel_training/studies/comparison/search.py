"""Random search by successive halving, as decisions alone: which trials run, which continue. It trains nothing."""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

Losses = Mapping[int, float | None]


@dataclass(frozen=True, slots=True)
class Trial:
    """A search's choice for a cell. `warmup_share` refers to the shortest run of the search.

    `gate_shift` is added to the bias of the gate that keeps the state, in the direction of keeping.
    """

    learning_rate: float
    warmup_share: float
    gate_shift: float
    dropout: float
    clip_norm: float

    def as_json(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Space:
    """The bounds of a trial's values, the same for every cell. Rate, warm-up and clip are drawn evenly in their
    logarithm.
    """

    learning_rate: tuple[float, float] = (1e-3, 3e-2)
    warmup_share: tuple[float, float] = (0.02, 0.5)
    gate_shift: tuple[float, float] = (-1.0, 2.0)
    dropout: tuple[float, float] = (0.0, 0.3)
    clip_norm: tuple[float, float] = (0.1, 3.0)


def draw_trials(space: Space, num_trials: int, name: str, seed: int) -> list[Trial]:
    """Draws independent trials for `name` and `seed`. A larger number begins with the same trials."""
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return [_draw(space, generator) for _ in range(num_trials)]


def rung_sizes(num_trials: int, num_rungs: int) -> list[int]:
    """Returns the number of trials at each rung: the better half of the rung before, and at least one."""
    return [max(1, math.ceil(num_trials / 2**rung)) for rung in range(num_rungs)]


def rank(losses: Losses) -> list[int]:
    """Orders trials from the least loss up: diverged ones last, equals by number."""
    return sorted(losses, key=lambda trial: (_or_infinite(losses[trial]), trial))


def open_trials(rungs: Sequence[Losses], sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Returns (rung, trial) of all trials that can run now.

    `rungs` holds the known results; a rung opens when the rung before is done.
    """
    members = list(range(sizes[0]))
    for rung, losses in enumerate(rungs):
        missing = [trial for trial in members if trial not in losses]
        if missing:
            return [(rung, trial) for trial in missing]
        if rung + 1 < len(sizes):
            members = sorted(rank({trial: losses[trial] for trial in members})[: sizes[rung + 1]])
    return []


def chosen_trial(rungs: Sequence[Losses]) -> int:
    """Returns the best trial of the last rung once `open_trials` is empty, or the first without a search."""
    return rank(rungs[-1])[0] if rungs and rungs[-1] else 0


def _draw(space: Space, generator: np.random.Generator) -> Trial:
    def evenly(bounds: tuple[float, float]) -> float:
        return float(generator.uniform(*bounds))

    def by_size(bounds: tuple[float, float]) -> float:
        return math.exp(generator.uniform(math.log(bounds[0]), math.log(bounds[1])))

    return Trial(
        learning_rate=_short(by_size(space.learning_rate)),
        warmup_share=_short(by_size(space.warmup_share)),
        gate_shift=_short(evenly(space.gate_shift)),
        dropout=_short(evenly(space.dropout)),
        clip_norm=_short(by_size(space.clip_norm)),
    )


def _short(value: float) -> float:
    """Rounds to three digits, so that the printed value is the value that ran."""
    return float(f"{value:.3g}")


def _or_infinite(loss: float | None) -> float:
    return math.inf if loss is None else loss
