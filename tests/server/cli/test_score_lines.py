"""`carousel score --lines`: a log, line by line."""

import json

from tests.server.cli.conftest import Fake, Run


def test_every_line_is_its_own_sequence_in_order(run: Run, fake: Fake) -> None:
    """Results come in the order of the lines, each from a fresh sequence and without the line end."""
    text = "".join(f"line {number}\r\n" for number in range(100))
    results = [json.loads(line) for line in run("score", "-", "--lines", stdin=text.encode()).out.splitlines()]
    assert [result["line"] for result in results] == list(range(1, 101))
    assert [result["text"] for result in results] == text.splitlines()
    assert {request.session_id for request in fake.service.requests} == {""}


def test_a_line_is_summed_up(run: Run) -> None:
    """Length, surprise in nats and bits, hits, and the rank of its most surprising token."""
    [line] = run("score", "-", "--lines", "--top-g", "97", stdin=b"abc").out.splitlines()
    assert json.loads(line) == {
        "line": 1,
        "num_tokens": 3,
        "nats": 1.5,
        "nats_per_token": 0.5,
        "bits_per_token": 0.7213,
        "num_hits": 1,
        "worst_rank": 99,
        "text": "abc",
    }


def test_an_empty_line_scores_nothing(run: Run) -> None:
    """It keeps its place."""
    results = [json.loads(line) for line in run("score", "-", "--lines", stdin=b"\na\n").out.splitlines()]
    assert [result["num_tokens"] for result in results] == [0, 1]


def test_a_refused_line_does_not_end_the_log(run: Run) -> None:
    """Its error takes its place; the exit code shows that there was one."""
    result = run("score", "-", "--lines", stdin=b"a\nbad\nb\n")
    rows = [json.loads(line) for line in result.out.splitlines()]
    assert ["error" in row for row in rows] == [False, True, False]
    assert result.code == 1
    assert result.err == "carousel: 1 lines were refused\n"


def test_an_overloaded_server_is_asked_again(run: Run, fake: Fake) -> None:
    """The retry comes after the time that the server names; nothing is lost."""
    fake.service.num_overloads = 2
    result = run("score", "-", "--lines", stdin=b"a\nb\n")
    assert [json.loads(line)["text"] for line in result.out.splitlines()] == ["a", "b"]
    assert result.code == 0


def test_a_lost_server_ends_the_log(run: Run) -> None:
    """One line on standard error, however many lines were waiting."""
    result = run("score", "-", "--lines", "--address", "127.0.0.1:1", stdin=b"a\n" * 200)
    assert (result.code, result.out) == (1, "")
    assert result.err.count("\n") == 1


def test_lines_and_a_session_exclude_each_other(run: Run) -> None:
    """A separate line continues nothing."""
    assert run("score", "-", "--lines", "--session", "mine").code == 2
