"""Finds abnormal sessions of a distributed file system's log: a model of normal ones marks what it did not expect.

    python examples/hdfs_anomalies.py hdfs_train hdfs_test_abnormal

The files hold one session a line, as event keys between spaces: normal ones in the first, abnormal ones in the second
(the HDFS sessions of Du et al., "DeepLog", 2017). A word model learns to predict the next event of normal sessions, is
exported and served, and rates every session through the server. A session is abnormal when one of its events, or its
end, is not among the g likeliest at its place, or when it has an event that no normal session had.

The split is our own: equal sessions count once, the normal ones are parted at random into 60 % to learn from, 15 % to
choose g on and 25 % to test on, and all abnormal ones are tested on. The usual test set, with half a million normal
sessions, most of them equal, gives other figures.
"""

import argparse
import contextlib
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from carousel.client import Client

TRAIN_SHARE, VALID_SHARE = 0.60, 0.15
MAX_FALSE_ALARMS = 0.05  # of the validation sessions: what is tolerated when g is chosen
NUM_ORDERS = 20  # each session is learned after many others, so that a model learns to forget at a session's end
NUM_AT_ONCE = 16
UNKNOWN = "<unk>"
SETTINGS = (
    "vocabulary.kind=word",
    "model.num_layers=1",
    "model.hidden_size=96",
    "model.embedding_size=16",
    "model.tied=false",
    "model.dropout=0.1",
    "optimizer.learning_rate=0.01",
    "batch.num_lanes=32",
    "batch.segment=32",
    "evaluation.sample_tokens=0",
    "compute.precision=float32",
    "compute.threads=1",
)


@dataclass(frozen=True, slots=True)
class Split:
    """Different sessions, each without the end of its line."""

    train: list[str]
    valid: list[str]
    normal: list[str]
    abnormal: list[str]


@dataclass(frozen=True, slots=True)
class Verdicts:
    """How many sessions of a test were flagged, among how many."""

    num_flagged_abnormal: int
    num_abnormal: int
    num_flagged_normal: int
    num_normal: int

    @property
    def precision(self) -> float:
        return self.num_flagged_abnormal / max(self.num_flagged_abnormal + self.num_flagged_normal, 1)

    @property
    def recall(self) -> float:
        return self.num_flagged_abnormal / self.num_abnormal

    @property
    def false_alarms(self) -> float:
        """Share of the normal sessions that are flagged."""
        return self.num_flagged_normal / self.num_normal

    @property
    def f1(self) -> float:
        return harmonic_mean(self.precision, self.recall)

    @property
    def balanced_f1(self) -> float:
        """What F1 would be if abnormal and normal sessions were equally many."""
        return harmonic_mean(self.recall / max(self.recall + self.false_alarms, 1e-12), self.recall)


def harmonic_mean(precision: float, recall: float) -> float:
    return 2.0 * precision * recall / max(precision + recall, 1e-12)


def read_sessions(path: Path) -> list[str]:
    """The different sessions of a file, in the order of their first lines."""
    sessions = (" ".join(line.split()) for line in path.read_text(encoding="utf-8").splitlines())
    return list(dict.fromkeys(session for session in sessions if session))


def split_sessions(normal: Sequence[str], abnormal: Sequence[str], seed: int) -> Split:
    """Abnormal sessions that equal a normal one are left out: nobody could tell them apart."""
    shuffled = random.Random(seed).sample(list(normal), len(normal))
    valid_start = round(TRAIN_SHARE * len(shuffled))
    test_start = valid_start + round(VALID_SHARE * len(shuffled))
    known = set(normal)
    return Split(
        train=shuffled[:valid_start],
        valid=shuffled[valid_start:test_start],
        normal=shuffled[test_start:],
        abnormal=[session for session in abnormal if session not in known],
    )


def write_texts(split: Split, directory: Path, seed: int) -> tuple[Path, Path]:
    """Training and validation text, one session a line; the training sessions come in many orders."""
    order = random.Random(seed)
    lines = [line for _ in range(NUM_ORDERS) for line in order.sample(split.train, len(split.train))]
    paths = directory / "train.txt", directory / "valid.txt"
    for path, sessions in zip(paths, (lines, split.valid), strict=True):
        path.write_text("".join(f"{session}\n" for session in sessions), encoding="utf-8")
    return paths


def make_bundle(texts: tuple[Path, Path], directory: Path, num_steps: int) -> Path:
    """Train and export by the commands that users run."""
    bundle, overrides = directory / "bundle", [f"budget.max_steps={num_steps}", f"evaluation.every_steps={num_steps}"]
    overrides += [f"corpus.{part}=['{path}']" for part, path in zip(("train", "valid"), texts, strict=True)]
    options = [word for setting in (*SETTINGS, *overrides) for word in ("--set", setting)]
    run = directory / "run"
    subprocess.run([_command("carousel-train"), "--out", str(run), "--fresh", *options], check=True)
    subprocess.run([_command("carousel-export"), str(run), str(bundle)], check=True)
    return bundle


@contextlib.contextmanager
def serve(bundle: Path) -> Iterator[str]:
    """`carousel serve` on free ports for as long as the block runs; yields the gRPC address."""
    command = [_command("carousel"), "serve", str(bundle), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    process = subprocess.Popen([*command, "--set", "log_level=warning"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        ready = re.match(r"serving gRPC on (\S+),", line)
        if ready is None:
            sys.exit(f"the server did not start: {line}")
        yield ready[1]
    finally:
        process.terminate()
        process.communicate()


def worst_rank(client: Client, session: str) -> float:
    """The rank of the least expected event, the session's end included; infinite with an event nobody knows.

    A fresh sequence stands after the end of a line, which is where the model has seen sessions begin.
    """
    tokens = [token for piece in client.score(f"{session}\n") for token in piece.tokens]
    return max(float("inf") if token.text.strip() == UNKNOWN else token.rank for token in tokens)


def rate(client: Client, sessions: Sequence[str]) -> list[float]:
    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        return list(pool.map(lambda session: worst_rank(client, session), sessions))


def choose_g(worst_ranks: Sequence[float], max_false_alarms: float) -> int:
    """The smallest g that leaves at most so large a share of normal sessions flagged; unknown events aside."""
    finite = sorted(rank for rank in worst_ranks if rank < float("inf"))
    num_allowed = int(max_false_alarms * len(finite))
    return int(finite[len(finite) - 1 - num_allowed])


def judge(abnormal: Sequence[float], normal: Sequence[float], g: int) -> Verdicts:
    """A session is flagged when its worst rank is beyond g."""
    flagged = [sum(rank > g for rank in ranks) for ranks in (abnormal, normal)]
    return Verdicts(flagged[0], len(abnormal), flagged[1], len(normal))


def report(split: Split, g: int, found: Verdicts) -> None:
    everything = Verdicts(found.num_abnormal, found.num_abnormal, found.num_normal, found.num_normal)
    print(
        f"\ndifferent sessions: {len(split.train)} normal ones learned, {len(split.valid)} to choose g; "
        f"tested on {found.num_normal} normal and {found.num_abnormal} abnormal ones (a split of our own)\n"
        f"g = {g}: the events among the {g} likeliest are expected\n"
        f"flagged: {found.num_flagged_abnormal} of {found.num_abnormal} abnormal, "
        f"{found.num_flagged_normal} of {found.num_normal} normal ({found.false_alarms:.1%} false alarms)\n"
        f"precision {found.precision:.4f}, recall {found.recall:.4f}, F1 {found.f1:.4f}\n"
        f"F1 if both kinds were equally many: {found.balanced_f1:.4f}\n"
        f"for comparison, flagging everything: F1 {everything.f1:.4f}, equally many {everything.balanced_f1:.4f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("normal", type=Path, help="normal sessions, one a line")
    parser.add_argument("abnormal", type=Path, help="abnormal sessions, one a line")
    parser.add_argument("--bundle", type=Path, help="a model of the same split and seed, instead of training one")
    parser.add_argument("--out", type=Path, help="where texts, run and bundle are kept; a temporary folder otherwise")
    parser.add_argument("--steps", type=int, default=2000, help="optimisation steps")
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    given = parser.parse_args()
    split = split_sessions(read_sessions(given.normal), read_sessions(given.abnormal), given.seed)
    with contextlib.ExitStack() as stack:
        directory = given.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory.mkdir(parents=True, exist_ok=True)
        texts = write_texts(split, directory, given.seed)
        bundle = given.bundle or make_bundle(texts, directory, given.steps)
        client = stack.enter_context(Client(stack.enter_context(serve(bundle))))
        g = choose_g(rate(client, split.valid), MAX_FALSE_ALARMS)
        report(split, g, judge(rate(client, split.abnormal), rate(client, split.normal), g))


def _command(name: str) -> str:
    """The installed command, as users call it."""
    return str(Path(sys.executable).with_name(name))


if __name__ == "__main__":
    main()
