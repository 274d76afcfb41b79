"""`carousel sessions ...`."""

import io
import json
import sys
from pathlib import Path

import pytest
from tests.server.cli.conftest import Fake, Run
from tests.server.cli.terminals import run_on_terminal
from tests.server.fake_service import Mishap


def test_a_session_is_made_shown_and_deleted(run: Run, fake: Fake) -> None:
    """Create prints only the id, for scripts."""
    session_id = run("sessions", "create").out.strip()
    assert list(fake.service.positions) == [session_id]
    assert session_id in run("sessions", "get", session_id).out
    assert run("sessions", "delete", session_id).code == 0
    assert fake.service.positions == {}
    result = run("sessions", "get", session_id)
    assert (result.code, result.err) == (1, f"carousel: session {session_id} has ended: deleted\n")


def test_the_list_has_every_page(run: Run) -> None:
    """As a table with whole ids, and as JSON lines."""
    names = ["a", "b" * 60, "c"]
    for name in names:
        run("sessions", "create", name)
    rows = run("sessions", "list").out.splitlines()
    assert [row.split()[0] for row in rows] == ["id", *names]
    as_json = [json.loads(line) for line in run("sessions", "list", "--json").out.splitlines()]
    assert [row["session_id"] for row in as_json] == names
    assert as_json[0]["create_time"] == "2023-11-14T22:13:20+00:00"


def test_several_are_deleted_at_once(run: Run, fake: Fake) -> None:
    """They are deleted in the given order, up to one that does not exist."""
    for name in "abc":
        run("sessions", "create", name)
    assert run("sessions", "delete", "a", "x", "c").code == 1
    assert list(fake.service.positions) == ["b", "c"]


def test_one_is_told_as_json(run: Run) -> None:
    """The same facts for a program."""
    run("sessions", "create", "mine")
    assert json.loads(run("sessions", "get", "mine", "--json").out)["session_id"] == "mine"


def test_a_session_is_forked_and_taken_back(run: Run, fake: Fake) -> None:
    """It prints only ids and positions, for scripts."""
    run("sessions", "create", "mine")
    run("generate", "ab", "--session", "mine", "--max-tokens", "1")
    assert run("sessions", "checkpoint", "mine", "here").out == "3\n"
    run("generate", "c", "--session", "mine", "--max-tokens", "1")
    assert run("sessions", "history", "mine").out.splitlines() == ["0", "3 here", "5"]
    as_json = json.loads(run("sessions", "history", "mine", "--json").out)
    assert as_json == {"positions": [0, 3, 5], "checkpoints": {"here": 3}}
    ids = run("sessions", "fork", "mine", "--count", "2", "--checkpoint", "here").out.split()
    assert [fake.service.positions[one] for one in ids] == [3, 3]
    assert run("sessions", "fork", "mine", "--new-id", "x", "--new-id", "y").out.split() == ["x", "y"]
    assert run("sessions", "rewind", "mine", "--position", "0").out == "0\n"
    assert run("sessions", "rewind", "mine", "--checkpoint", "here").out == "3\n"
    assert run("sessions", "rewind", "mine", "--position", "4").err == "carousel: position 4 is not retained\n"


@pytest.mark.parametrize(
    "arguments",
    [["rewind", "mine"], ["fork", "mine", "--position", "1", "--checkpoint", "a"], ["fork", "m", "--count=0"]],
)
def test_a_point_that_makes_no_sense_is_wrong_usage(run: Run, arguments: list[str]) -> None:
    """This is reported before any call."""
    assert run("sessions", *arguments).code == 2


def test_a_state_goes_out_and_in(run: Run, fake: Fake, tmp_path: Path) -> None:
    """The state goes through a file; one that cannot be read or written is a one-line error."""
    run("sessions", "create", "mine")
    run("generate", "ab", "--session", "mine", "--max-tokens", "1")
    file = str(tmp_path / "state")
    assert run("sessions", "export", "mine", file, "--ttl", "60").out == ""
    assert fake.service.requests[-1].ttl.seconds == 60
    assert run("sessions", "import", file, "copy").out == "copy\n"
    assert fake.service.positions["copy"] == 3
    assert run("sessions", "import", str(tmp_path / "nothing")).err.endswith("nothing: No such file or directory\n")
    assert run("sessions", "export", "mine", str(tmp_path)).err == f"carousel: {tmp_path}: Is a directory\n"


def test_a_state_goes_through_a_pipe(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` is standard input and output, as bytes."""
    assert run("sessions", "import", "-", "mine", stdin=b"at 7").out == "mine\n"
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written))
    run("sessions", "export", "mine", "-")
    assert written.getvalue() == b"at 7"


def test_no_state_is_written_to_a_terminal(run: Run, fake: Fake) -> None:
    """Bytes could control the terminal: this is wrong usage, reported before any call; a pipe beside a terminal accepts
    them."""
    run("sessions", "create", "mine")
    environ = {"CAROUSEL_ADDRESS": fake.address}
    num_requests = len(fake.service.requests)
    shown = run_on_terminal("sessions", "export", "mine", "-", environ=environ)
    assert shown.code == 2
    assert "cannot be shown on a terminal" in shown.text
    assert len(fake.service.requests) == num_requests
    assert run_on_terminal("sessions", "export", "mine", "-", environ=environ, is_output_piped=True).piped == b"at 0"


def test_events_are_told_as_they_come(run: Run) -> None:
    """Each event is a line, for people or for programs."""
    run("sessions", "create", "mine")
    assert run("sessions", "watch").out.splitlines()[0].split()[2:] == ["created", "mine"]
    first = json.loads(run("sessions", "watch", "--json").out.splitlines()[0])
    assert first == {"kind": "created", "session_id": "mine", "time": "2023-11-14T22:13:20+00:00"}


def test_a_lost_answer_is_asked_for_again(run: Run, fake: Fake) -> None:
    """The session is created once, and its id is printed."""
    fake.service.mishaps = [Mishap(is_applied=True)]
    assert run("sessions", "create", "mine").out == "mine\n"
    assert fake.service.positions == {"mine": 0}


def test_a_server_that_is_not_there_is_told_soon(run: Run, fake: Fake) -> None:
    """The command fails after two more attempts, not after ten."""
    fake.service.mishaps = [Mishap()] * 10
    assert "does not answer" in run("sessions", "create", "mine").err
    assert len(fake.service.mishaps) == 7
