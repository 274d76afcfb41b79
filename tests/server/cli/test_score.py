"""`carousel score`: colours and totals."""

from pathlib import Path

import pytest
from tests.server import fake_service
from tests.server.cli.conftest import Fake, Run
from tests.server.fake_sessions import Kept

from carousel.cli.score import Sums, style_of
from carousel.client import ScoreTotals
from carousel.v1 import language_model_pb2 as lm


def test_a_file_is_shown_with_its_totals(run: Run, tmp_path: Path) -> None:
    """The text itself, a legend, and the sums over all tokens."""
    file = tmp_path / "text"
    file.write_text("ab c\n")
    lines = run("score", str(file), "--top-g", "97").out.splitlines()
    assert lines[0] == "ab c"
    assert "rank 1 to 97" in lines[1]
    assert lines[2].startswith("5 tokens, 0.5000 nats/token, 0.7213 bits/token, perplexity 1.649, 60.0% among the 97")


def test_a_long_text_goes_through_a_session_in_parts(run: Run, fake: Fake) -> None:
    """The parts are within the server's limit, on one sequence that is deleted afterwards; totals cover all of them."""
    text = "one two three four\n" * 3
    result = run("score", "-", stdin=text.encode())
    assert result.out.startswith(text)
    assert f"{len(text)} tokens" in result.out
    requests = fake.service.requests
    assert "".join(request.input.text for request in requests) == text
    assert all(len(request.input.text) <= 16 for request in requests)
    assert len({request.session_id for request in requests}) == 1
    assert requests[0].session_id != ""
    assert fake.service.positions == {}


def test_parts_keep_within_the_bytes_that_the_server_takes(
    run: Run, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where that is less than the tokens that it takes."""
    model = lm.Model()
    model.CopyFrom(fake_service.MODEL)
    model.limits.max_input_bytes = 5
    monkeypatch.setattr(fake_service, "MODEL", model)
    run("score", "-", stdin=b"abcdefghijkl")
    assert [request.input.text for request in fake.service.requests] == ["abcde", "fghij", "kl"]


def test_a_short_text_needs_no_session(run: Run, fake: Fake) -> None:
    """One request on a fresh sequence; or on the session that the user names."""
    run("score", "-", stdin=b"ab")
    assert fake.service.requests[-1].session_id == ""
    assert run("score", "-", "--session", "mine", stdin=b"ab").err.endswith("carousel sessions create mine)\n")
    fake.service.kept["mine"] = Kept(0)
    run("score", "-", "--session", "mine", stdin=b"ab")
    assert fake.service.positions == {"mine": 2}


def test_an_empty_text_has_no_tokens(run: Run) -> None:
    """Division by zero tokens does not fail."""
    assert run("score", "-").out.endswith("no tokens\n")


def test_an_unreadable_file_is_one_line(run: Run, tmp_path: Path) -> None:
    """Named, with the system's reason."""
    result = run("score", str(tmp_path / "none"))
    assert result.code == 1
    assert result.err.endswith("none: No such file or directory\n")
    assert run("score", str(tmp_path)).code == 1


def test_control_characters_do_not_reach_the_terminal(run: Run) -> None:
    """A text cannot control the terminal that shows it."""
    assert "\x1b" not in run("score", "-", stdin=b"a\x1b[2Jb").out


def test_surprise_grows_by_factors_of_ten() -> None:
    """Hits are plain; the style changes just beyond g, 10 g and 100 g."""
    styles = [style_of(rank, 10) for rank in (1, 10, 11, 100, 101, 1000, 1001, 30_000)]
    assert styles[0] == styles[1] == ""
    assert [styles[2] == styles[3], styles[4] == styles[5], styles[6] == styles[7]] == [True] * 3
    assert len(set(styles)) == 4


def test_sums_of_hopeless_text_stay_printable() -> None:
    """A perplexity that no float holds is infinite, not an exception."""
    sums = Sums().add(ScoreTotals(1, -1e4, float("inf"), 0, 1))
    assert "perplexity inf" in sums.describe(10)
