"""Servers that are up at once, checked against golden answers and then timed in turn, so that a drift of the machine
meets all alike.
"""

import contextlib
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.harness.raw_speed import raw_tokens_per_second
from bench.peers.environments import last_words
from bench.peers.golden import NUM_SEQUENCES, NUM_TOKENS, Answers, find_difference

FEW_SESSIONS = (1, 8)  # one measurement each
MANY_SESSIONS = 64  # what ratios are about: one in each round
_NUM_TRIES = 4  # Triton 2.51 crashes at every other start of 64 streams
_PATIENCE_SECONDS = 300.0  # beyond what a client measures


class ContestantFailed(Exception):
    """A client did not finish, or a server's answers are wrong."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server and the ways to talk to it: a name for figures, and the client's name for it."""

    name: str
    address: str
    patterns: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Speed:
    """What a client saw."""

    tokens_per_second: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Timings:
    """`speeds[server, pattern][num_sessions]` has an entry for each round, `raw` the bare graphs' tokens/s at 64."""

    speeds: dict[tuple[str, str], dict[int, list[Speed]]] = field(default_factory=lambda: defaultdict(dict))
    raw: list[float] = field(default_factory=list)


def check(contestant: Contestant, golden: Answers) -> Contestant:
    """The contestant with those of its patterns that answer right; why another does not is said on stderr."""
    right = {}
    for label, pattern in contestant.patterns.items():
        try:
            answers = _ask_again("trace", pattern, contestant.address, NUM_SEQUENCES, NUM_TOKENS)
            difference = find_difference(answers, golden)
            if difference:
                raise ContestantFailed(f"wrong answers: {difference}")
            right[label] = pattern
        except ContestantFailed as error:
            _complain(contestant.name, label, error)
    return Contestant(contestant.name, contestant.address, right)


def measure(contestants: list[Contestant], bundle: Path, num_threads: int, seconds: float, rounds: int) -> Timings:
    """1 and 8 sessions once, 64 in each round. A pattern that fails, after another try, is not asked again."""
    timings = Timings()
    entries = {
        (one.name, label): (one.address, pattern) for one in contestants for label, pattern in one.patterns.items()
    }
    for num_sessions in (*FEW_SESSIONS, *[MANY_SESSIONS] * rounds):
        if num_sessions == MANY_SESSIONS:
            timings.raw.append(raw_tokens_per_second(bundle, MANY_SESSIONS, num_threads=num_threads, seconds=seconds))
        for (name, label), (address, pattern) in list(entries.items()):
            try:
                speed = Speed(**_ask_again("speed", pattern, address, num_sessions, seconds))
            except ContestantFailed as error:
                _complain(name, label, error)
                del entries[name, label]
                timings.speeds.pop((name, label), None)
            else:
                timings.speeds[name, label].setdefault(num_sessions, []).append(speed)
    return timings


def _ask_again(command: str, pattern: str, address: str, num_sequences: int, amount: float) -> Any:
    """What a client process prints; a server that crashed under it is back by then."""
    for _ in range(_NUM_TRIES - 1):
        with contextlib.suppress(ContestantFailed):
            return _ask(command, pattern, address, num_sequences, amount)
    return _ask(command, pattern, address, num_sequences, amount)


def _ask(command: str, pattern: str, address: str, num_sequences: int, amount: float) -> Any:
    """What a client process prints."""
    client = [sys.executable, "-m", "bench.peers.client", command, pattern, address, str(num_sequences), str(amount)]
    patience = _PATIENCE_SECONDS + amount
    try:
        done = subprocess.run(client, check=True, capture_output=True, text=True, timeout=patience)
    except subprocess.CalledProcessError as error:
        raise ContestantFailed(last_words(error.stderr)) from error
    except subprocess.TimeoutExpired as error:
        raise ContestantFailed(f"the client did not end within {patience:.0f} s") from error
    return json.loads(done.stdout)


def _complain(name: str, label: str, error: Exception) -> None:
    print(f"{name}, {label}: not timed: {error}", file=sys.stderr)
