"""`carousel sessions ...`."""

import json

from tests.server.cli.conftest import Fake, Run


def test_a_session_is_made_shown_and_deleted(run: Run, fake: Fake) -> None:
    """Create prints the id alone, for scripts to take."""
    session_id = run("sessions", "create").out.strip()
    assert list(fake.service.positions) == [session_id]
    assert session_id in run("sessions", "get", session_id).out
    assert run("sessions", "delete", session_id).code == 0
    assert fake.service.positions == {}
    result = run("sessions", "get", session_id)
    assert (result.code, result.err) == (1, f"carousel: there is no session {session_id}\n")


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
    """In the order given, up to one that is not there."""
    for name in "abc":
        run("sessions", "create", name)
    assert run("sessions", "delete", "a", "x", "c").code == 1
    assert list(fake.service.positions) == ["b", "c"]


def test_one_is_told_as_json(run: Run) -> None:
    """The same facts for a program."""
    run("sessions", "create", "mine")
    assert json.loads(run("sessions", "get", "mine", "--json").out)["session_id"] == "mine"
