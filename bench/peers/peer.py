"""The figures of a comparison. Ratios are medians over rounds, each of what was measured within one round."""

from statistics import median

from bench.harness.report import print_figure
from bench.peers.contest import MANY_SESSIONS, Speed, Timings

OURS = "carousel"
_AIMS = {  # of the figures that have one
    "peer.triton_python.predict_64": 1.0,
    "peer.triton_python.predict_many_64": 1.8,
    "peer.triton_python.generate_64": 5.0,
    "peer.carousel.medium.generate_over_raw": 0.8,
}


def print_timings(size: str, timings: Timings) -> None:
    """Speeds and latencies of every server, pattern and number of sessions; `tokens` is a peer's best pattern."""
    print_figure(f"peer.raw.{size}.sessions_{MANY_SESSIONS}", median(timings.raw), "tokens/s")
    for (name, label), by_sessions in timings.speeds.items():
        for num_sessions, speeds in by_sessions.items():
            prefix = f"peer.{name}.{size}.sessions_{num_sessions}.{label}"
            print_figure(prefix, median(speed.tokens_per_second for speed in speeds), "tokens/s")
            print_figure(f"{prefix}.p50", median(speed.p50_ms for speed in speeds), "ms")
            print_figure(f"{prefix}.p99", median(speed.p99_ms for speed in speeds), "ms")
    for name in peers(timings):
        for num_sessions in timings.speeds[_patterns(timings, name)[0]]:
            best = median(best_rounds(timings, name, num_sessions))
            print_figure(f"peer.{name}.{size}.sessions_{num_sessions}.tokens", best, "tokens/s")


def print_ratios(size: str, timings: Timings) -> None:
    """Ours over each peer's best pattern of the same kind, and everybody over the bare graphs, at 64 sessions."""
    middle = "" if size == "small" else f"{size}."
    ours = {label: _rounds(speeds[MANY_SESSIONS]) for (name, label), speeds in timings.speeds.items() if name == OURS}
    for label, rounds in ours.items():
        _print_ratio(f"peer.{OURS}.{size}.{label}_over_raw", rounds, timings.raw)
    for name in peers(timings):
        _print_ratio(f"peer.{name}.{size}.over_raw", best_rounds(timings, name, MANY_SESSIONS), timings.raw)
        for label, rounds in ours.items():
            patterns = [key for key in _patterns(timings, name) if _shares_streams(key[1]) == _shares_streams(label)]
            if patterns:
                theirs = _best(timings, patterns, MANY_SESSIONS)
                _print_ratio(f"peer.{name}.{middle}{label}_{MANY_SESSIONS}", rounds, theirs)


def peers(timings: Timings) -> list[str]:
    """The others, in their order."""
    return [name for name in dict.fromkeys(name for name, _ in timings.speeds) if name != OURS]


def best_rounds(timings: Timings, name: str, num_sessions: int) -> list[float]:
    """Tokens/s of a server in each round, with whichever pattern was the fastest in it."""
    return _best(timings, _patterns(timings, name), num_sessions)


def _best(timings: Timings, patterns: list[tuple[str, str]], num_sessions: int) -> list[float]:
    rounds = [_rounds(timings.speeds[key][num_sessions]) for key in patterns]
    return [max(speeds) for speeds in zip(*rounds, strict=True)]


def _shares_streams(label: str) -> bool:
    """Whether sequences of that pattern share streams."""
    return "many" in label


def _patterns(timings: Timings, name: str) -> list[tuple[str, str]]:
    return [key for key in timings.speeds if key[0] == name]


def _rounds(speeds: list[Speed]) -> list[float]:
    return [speed.tokens_per_second for speed in speeds]


def _print_ratio(figure: str, above: list[float], below: list[float]) -> None:
    ratio = median(a / b for a, b in zip(above, below, strict=True))
    print_figure(figure, ratio, "ratio", at_least=_AIMS.get(figure))
