"""Two servers under the same load in turn, so that what else the machine does meets both."""

import statistics
from dataclasses import dataclass

from bench.harness.load import Load, per_second, put_load


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two."""

    address: str
    load: Load

    def speed(self) -> float:
        """Messages a second, of all streams together."""
        return per_second(put_load(self.address, self.load)["seconds"])


def compare(one: Side, other: Side, num_rounds: int) -> tuple[float, float]:
    """Returns the median share that `one` has of the speed of `other`, and the median speed of `one`."""
    pairs = [(one.speed(), other.speed()) for _ in range(num_rounds)]
    return statistics.median(mine / theirs for mine, theirs in pairs), statistics.median(mine for mine, _ in pairs)
