"""A session with an open sequence always keeps its place; other sessions keep theirs in the order of use."""

from carousel.client.wires.homes import Homes


def rest(homes: Homes[str], session_id: str, place: str) -> None:
    """The session had a sequence there, which has ended."""
    homes.enter(session_id, place)
    homes.leave(session_id)


def test_what_is_used_is_not_forgotten() -> None:
    """A sequence or any other call counts as use; the least recently used is forgotten."""
    homes: Homes[str] = Homes(max_resting=2)
    for session_id in ("a", "b"):
        rest(homes, session_id, f"at {session_id}")
    assert homes.find("a") == "at a"
    rest(homes, "c", "at c")
    assert [homes.find(session_id) for session_id in ("a", "b", "c")] == ["at a", None, "at c"]
    rest(homes, "a", "at a")
    rest(homes, "d", "at d")
    assert [homes.find(session_id) for session_id in ("a", "c", "d")] == ["at a", None, "at d"]


def test_an_open_sequence_keeps_its_place() -> None:
    """This holds however many others come and go, until the session's last sequence has ended."""
    homes: Homes[str] = Homes(max_resting=2)
    for _ in range(2):
        homes.enter("mine", "here")
    for number in range(9):
        rest(homes, str(number), "there")
    homes.leave("mine")
    for number in range(9):
        rest(homes, str(number), "there")
    assert homes.find("mine") == "here"
    homes.leave("mine")
    for number in range(2):
        rest(homes, str(number), "there")
    assert homes.find("mine") is None
    assert repr(homes) == "Homes(0 open, 2 resting)"


def test_the_latest_place_counts() -> None:
    """The first place has no room any more."""
    homes: Homes[str] = Homes()
    homes.enter("mine", "here")
    homes.enter("mine", "there")
    assert homes.find("mine") == "there"
    homes.leave("mine")
    homes.leave("mine")
    assert homes.find("mine") == "there"
