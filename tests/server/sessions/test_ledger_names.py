"""The end of a turn keeps its name, the turn's revision, while its boundary is retained: whatever writes that boundary
again, and no longer."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.sessions.test_ledger import LEDGER, RETENTION, advanced, advanced_at_once, apply, at, opened

from carousel.state.store import Held


def locate(held: Held, *revisions: int) -> list[bytes | None]:
    return [LEDGER.locate(held, revision) for revision in revisions]


def test_each_turn_has_its_boundary() -> None:
    """The newest is the last one; what was never made is not found."""
    held = advanced(advanced(opened(), 1), 2)
    assert locate(held, 0, 1, 2, 3, 2**62) == [at(0), at(1), at(2), None, None]
    assert [LEDGER.is_newest(held, revision) for revision in range(4)] == [False, False, True, False]


def test_changes_without_a_turn_keep_the_name() -> None:
    """Checkpoints, turns that move nothing, and a forgotten older end: the turn is still the newest."""
    held = advanced(advanced(opened(), 1), 2)
    held = apply(held, LEDGER.mark(held, "one"))
    held = apply(held, LEDGER.mark(held, "two"))
    held = advanced(held, 2)
    change = LEDGER.forget(held, 1)
    assert change is not None
    held = apply(held, change)
    assert held.row.revision == 6
    assert LEDGER.is_newest(held, 2)
    assert locate(held, 0, 1, 2) == [at(0), None, at(2)]
    held = advanced(held, 3)
    assert not LEDGER.is_newest(held, 2)
    assert locate(held, 2, 7) == [at(2), at(3)]


def test_a_rewind_makes_the_older_end_the_newest() -> None:
    """Those after it are gone. A turn from there has a name of its own."""
    held = opened()
    for position in (1, 2, 3):
        held = advanced(held, position)
    held = apply(held, LEDGER.rewind(held, LEDGER.find(held, 1, "")))
    assert LEDGER.is_newest(held, 1)
    assert locate(held, 1, 2, 3) == [at(1), None, None]
    held = advanced(held, 2)
    assert locate(held, 1, 2, 3, 5) == [at(1), None, None, at(2)]


def test_a_rewind_to_a_checkpoint_of_a_dropped_boundary_has_no_old_name() -> None:
    """The state is there, and no turn's end is."""
    held = apply(advanced(opened(), 1), LEDGER.mark(advanced(opened(), 1), "c"))
    for position in range(2, 9):
        held = advanced(held, position)
    held = apply(held, LEDGER.rewind(held, LEDGER.find(held, None, "c")))
    assert LEDGER.current(held) == at(1)
    assert not any(LEDGER.is_newest(held, revision) for revision in range(held.row.revision))


def test_names_go_with_their_boundaries() -> None:
    """Nothing is left of them when newer ones push them out, one by one or together."""
    for together in (False, True):
        held = advanced(opened(), 1)
        held = apply(held, LEDGER.mark(held, "c"))
        assert any(key.startswith("as/") for key in held.parts)
        if together:
            held = advanced_at_once(held, [("", b"")] * 8)
        else:
            for position in range(2, 9):
                held = advanced(held, position)
        assert not any(key.startswith("as/") for key in held.parts)
        assert locate(held, 1) == [None]


def test_an_answer_is_found_at_its_end() -> None:
    """Also after the boundary was written again. One that is forgotten is gone, and its request stays applied."""
    held = advanced(advanced(opened(), 1, "r", b"one"), 2, "q", b"two")
    held = apply(held, LEDGER.mark(held, "c"))
    assert [LEDGER.answer_at(held, revision) for revision in (0, 1, 2, 3)] == [None, b"one", b"two", None]
    assert (LEDGER.answered_revision(held, "r"), LEDGER.answered_revision(held, "q")) == (1, 2)
    change = LEDGER.forget(held, 1)
    assert change is not None
    held = apply(held, change)
    assert [LEDGER.answer_at(held, revision) for revision in (1, 2)] == [None, b"two"]
    assert LEDGER.is_used(held, "r")
    assert LEDGER.find_answer(held, "r") is None
    assert LEDGER.forget(held, 1) is None


def test_an_end_is_forgotten_whose_boundary_is_gone() -> None:
    """Its answer may be kept for longer."""
    held = apply(advanced(opened(), 1, "r", b"one"), LEDGER.rewind(advanced(opened(), 1, "r", b"one"), at(0)))
    assert locate(held, 1) == [None]
    change = LEDGER.forget(held, 1)
    assert change is not None
    assert LEDGER.answer_at(apply(held, change), 1) is None


def test_a_session_can_begin_with_a_turn() -> None:
    """Its first boundary is that turn's end, and the answer is kept while it is not too large."""
    for answer, kept in ((b"x" * 10, b"x" * 10), (b"x" * 11, None)):
        birth = LEDGER.open("s", "ann", 7, at(4), request_id="r", answer=answer)
        held = Held(opened(4).row, birth.parts)
        assert LEDGER.is_newest(held, 0)
        assert LEDGER.is_used(held, "r")
        assert (LEDGER.find_answer(held, "r"), LEDGER.answer_at(held, 0)) == (kept, kept)


@given(st.lists(st.sampled_from(["turn", "still", "mark", "rewind", "forget"]), max_size=25), st.randoms())
def test_names_are_never_more_than_boundaries(events: list[str], random: Random) -> None:
    """Each name leads to a boundary, no two to one, and the present one is among them."""
    held = opened()
    for event in events:
        if event == "turn":
            held = advanced(held, held.row.position + 1)
        elif event == "still":
            held = advanced(held, held.row.position)
        elif event == "mark":
            held = apply(held, LEDGER.mark(held, "c"))
        elif event == "rewind":
            position = random.choice(LEDGER.positions(held))
            held = apply(held, LEDGER.rewind(held, LEDGER.find(held, position, "")))
        else:
            older = [one for one in range(held.row.revision) if not LEDGER.is_newest(held, one)]
            change = LEDGER.forget(held, random.choice(older)) if older else None
            held = held if change is None else apply(held, change)
        boundaries = {key.removeprefix("at/") for key in held.parts if key.startswith("at/")}
        names = {key.removeprefix("as/"): part for key, part in held.parts.items() if key.startswith("as/")}
        assert names.keys() <= boundaries
        assert len(set(names.values())) == len(names)
        assert len(boundaries) <= RETENTION.max_turns + 1
        assert LEDGER.current(held) == at(held.row.position)
        assert sum(LEDGER.is_newest(held, revision) for revision in range(held.row.revision + 1)) >= 1


@pytest.mark.parametrize("revision", [0, 1])
def test_forgetting_changes_nothing_that_is_held(revision: int) -> None:
    """The rules are pure."""
    held = advanced(advanced(opened(), 1), 2)
    before = dict(held.parts)
    LEDGER.forget(held, revision)
    assert held.parts == before
