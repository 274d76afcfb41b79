"""The log example: its split and verdicts, and all of it on invented sessions."""

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from examples.hdfs_anomalies import Verdicts, choose_g, judge, read_sessions, split_sessions, write_texts

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "hdfs_anomalies.py"
NEVER = float("inf")


def test_equal_sessions_count_once(tmp_path: Path) -> None:
    """Sessions that differ only in white space are read once; blank lines are no sessions."""
    path = tmp_path / "sessions"
    path.write_text("5 22 5 \n\n9 11\n5  22 5\n", encoding="utf-8")
    assert read_sessions(path) == ["5 22 5", "9 11"]


def test_the_split_shares_nothing() -> None:
    """Every normal session is in exactly one part, and no abnormal one equals a normal one."""
    normal = [f"1 {number}" for number in range(100)]
    split = split_sessions(normal, ["1 3", "2 2"], seed=1)
    parts = (split.train, split.valid, split.normal)
    assert [len(part) for part in parts] == [60, 15, 25]
    assert sorted(session for part in parts for session in part) == sorted(normal)
    assert split.abnormal == ["2 2"]
    assert split == split_sessions(normal, ["1 3", "2 2"], seed=1)
    assert split.train != split_sessions(normal, ["1 3", "2 2"], seed=2).train


def test_texts_hold_what_the_split_says(tmp_path: Path) -> None:
    """Each training session comes equally often, in different orders; no test session is written."""
    split = split_sessions([f"1 {number}" for number in range(50)], ["2 2"], seed=1)
    train, valid = (path.read_text(encoding="utf-8").splitlines() for path in write_texts(split, tmp_path, 1))
    assert valid == split.valid
    rounds = [train[start : start + 30] for start in range(0, len(train), 30)]
    assert all(sorted(one) == sorted(split.train) for one in rounds)
    assert rounds[0] != rounds[1]


def test_g_leaves_no_more_alarms_than_tolerated() -> None:
    """The smallest g within the tolerance is chosen; sessions with unknown events are flagged under any g and do not
    count."""
    ranks = [1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0, NEVER]
    assert choose_g(ranks, 0.0) == 9
    assert choose_g(ranks, 0.1) == 7
    assert choose_g(ranks, 0.29) == 6


def test_verdicts_count_both_kinds() -> None:
    """A session beyond g is flagged; precision, recall and F1 follow, even for equal numbers of both kinds."""
    found = judge([2.0, 8.0, NEVER, 9.0], [1.0, 3.0, 5.0, 8.0, 2.0, 1.0, 1.0, 1.0], g=5)
    assert found == Verdicts(3, 4, 1, 8)
    assert (found.precision, found.recall, found.false_alarms) == (0.75, 0.75, 0.125)
    assert found.f1 == pytest.approx(0.75)
    assert found.balanced_f1 == pytest.approx(2 * (6 / 7) * 0.75 / (6 / 7 + 0.75))


def test_the_example_finds_what_it_should(tmp_path: Path) -> None:
    """A trained, exported and served model tells sessions that stop short, run backwards or have an unknown event from
    normal ones, whose middles vary."""
    rng = random.Random(0)
    normal = [f"1 2 3 {' '.join(rng.choices('45', k=9))} 7 8 9" for _ in range(150)]
    abnormal = [line for session in normal[:20] for line in (session[:11], session[::-1], session.replace("7", "X"))]
    for name, lines in (("normal", normal), ("abnormal", abnormal)):
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    command = [sys.executable, str(EXAMPLE), str(tmp_path / "normal"), str(tmp_path / "abnormal"), "--steps", "150"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], check=True, capture_output=True, encoding="utf-8", timeout=300
    )
    precision, recall = re.findall(r"^precision ([\d.]+), recall ([\d.]+)", done.stdout, re.MULTILINE)[0]
    assert float(recall) >= 0.9
    assert float(precision) >= 0.9
    again = subprocess.run([*command, "--bundle", str(tmp_path / "out" / "bundle")], check=True, capture_output=True)
    assert again.stdout.decode().splitlines()[-6:] == done.stdout.splitlines()[-6:]
