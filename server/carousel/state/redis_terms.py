"""The durations of the Redis store: as configured, and as scripts take them."""

from dataclasses import dataclass

from carousel.state.store import Lifetimes


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations in seconds."""

    lease: float  # how long others wait for a server that does not answer
    time_out: float = 2.0  # of one attempt
    patience: float = 5.0  # how long a finished turn tries to be committed
    ending: float = 3600.0  # how long an ending is remembered
    place: float = 1.0  # how long a waiting server keeps its place in line without asking again


@dataclass(frozen=True, slots=True)
class Terms:
    """The same in milliseconds, with the lifetimes of sessions. Scripts take durations; the clock is that of Redis."""

    idle: int
    absolute: int
    ending: int
    lease: int
    place: int
    patience_seconds: float

    @classmethod
    def of(cls, lifetimes: Lifetimes, timing: Timing) -> "Terms":
        idle, absolute = _milliseconds(lifetimes.idle), _milliseconds(lifetimes.absolute)
        ending, lease, place = (_milliseconds(seconds) for seconds in (timing.ending, timing.lease, timing.place))
        return cls(idle, absolute, ending, lease, place, timing.patience)


def _milliseconds(seconds: float) -> int:
    return int(1000 * seconds)
