"""A session's past as parts: a rewind finds what was there, and nothing grows beyond its bound."""

import hashlib
import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.bounds import make_retention

from carousel.bundle.layout import StateLayout, StateTensor
from carousel.errors import PositionUnknown
from carousel.sessions.ledger import Boundary, Ledger, Move
from carousel.state.codec import SnapshotCodec
from carousel.state.store import Change, Held, Row
from carousel.turns import Snapshot

CODEC = SnapshotCodec(StateLayout((StateTensor("h", (1,), "float32"),)), "ab" * 32, 1)
RETENTION = make_retention(max_turns=3, max_answers=2, max_answer_bytes=10, max_request_ids=5)
LEDGER = Ledger(RETENTION)


def at(position: int, value: float = 0.5) -> bytes:
    hidden_H = np.array([value], np.float32)
    return CODEC.encode(Snapshot(position, (hidden_H,), hidden_H))


def opened(position: int = 0) -> Held:
    birth = LEDGER.open("s", "ann", 7, at(position))
    return Held(Row(birth.id, birth.owner, birth.incarnation, 0, birth.position, 1, 1, 9), birth.parts)


def apply(held: Held, change: Change) -> Held:
    """Applies a change as a store does."""
    parts = {key: part for key, part in held.parts.items() if key not in change.drop}
    row = replace(held.row, revision=held.row.revision + 1, position=change.position)
    return Held(row, parts | dict(change.put))


def advanced(held: Held, position: int, request_id: str = "", answer: bytes = b"") -> Held:
    return apply(held, LEDGER.advance(held, at(position), request_id, answer))


def moved(held: Held, change: Change, request_id: str, contents: bytes = b"twelve bytes") -> Held:
    return apply(held, LEDGER.record_move(held, change, request_id, contents))


def test_a_new_session_stands_at_its_snapshot() -> None:
    """Position and parts agree, with one boundary."""
    held = opened(position=5)
    assert (held.row.id, held.row.owner, held.row.incarnation, held.row.position) == ("s", "ann", 7, 5)
    assert (LEDGER.current(held), LEDGER.positions(held), LEDGER.marks(held)) == (at(5), [5], {})


def test_turns_leave_boundaries_up_to_the_bound() -> None:
    """One can go back to as many boundaries as are retained beside the current one; older ones are dropped."""
    held = opened()
    for position in range(1, 8):
        held = advanced(held, position)
        assert LEDGER.current(held) == at(position)
        assert (held.row.position, held.row.revision) == (position, position)
        assert LEDGER.positions(held) == list(range(max(0, position - 3), position + 1))
        assert len(held.parts) == len(LEDGER.positions(held))


def test_turns_that_move_nothing_keep_the_boundaries() -> None:
    """A hundred requests that feed nothing push nothing out of the ring."""
    held = advanced(advanced(opened(), 1), 2)
    for _ in range(100):
        held = advanced(held, 2)
    assert LEDGER.positions(held) == [0, 1, 2]
    assert len(held.parts) == 4  # with the name of the last
    assert held.row.revision == 102


def test_answers_are_found_by_their_request_up_to_the_bound() -> None:
    """The last answers are there word for word, the oldest are dropped, and another id has none."""
    held = opened()
    for number in range(1, 5):
        held = advanced(held, number, f"request-{number}", b"%d" % number)
        assert LEDGER.find_answer(held, f"request-{number}") == b"%d" % number
    found = [LEDGER.find_answer(held, f"request-{number}") for number in range(1, 5)]
    assert found == [None, None, b"3", b"4"]
    assert LEDGER.find_answer(held, "request") is None
    assert LEDGER.find_answer(held, "4") is None


def test_turns_without_an_id_keep_no_answer_and_drop_none() -> None:
    """Only requests that can be repeated have records."""
    held = advanced(opened(), 1, "r", b"x")
    for position in range(2, 9):
        held = advanced(held, position)
    assert LEDGER.find_answer(held, "r") == b"x"
    assert sum(key.startswith("answer/") for key in held.parts) == 1


@pytest.mark.parametrize(("size", "kept"), [(10, b"x" * 10), (11, None), (0, None)])
def test_an_answer_has_a_size(size: int, kept: bytes | None) -> None:
    """An answer at the bound is kept; above it, or without one, only the request's application is recorded."""
    held = advanced(opened(), 1, "r", b"x" * size)
    assert LEDGER.find_answer(held, "r") == kept
    assert LEDGER.is_used(held, "r")


def test_ids_are_remembered_longer_than_answers() -> None:
    """The last five ids are used, of which two have answers; the sixth is forgotten; no other id is used."""
    held = opened()
    for number in range(1, 9):
        held = advanced(held, number, f"r{number}", b"x")
    assert [LEDGER.is_used(held, f"r{number}") for number in range(1, 9)] == [False] * 3 + [True] * 5
    assert sum(key.startswith("answer/") for key in held.parts) == 2
    assert len(held.parts["used"]) == 5 * 8
    assert not LEDGER.is_used(held, "r")


def test_an_id_is_not_found_across_two_others() -> None:
    """Eight bytes from the end of one digest and the start of the next are no id."""
    wanted = hashlib.blake2b(b"wanted", digest_size=8).digest()
    for shift in range(1, 8):
        held = opened()
        held = Held(held.row, {**held.parts, "used": bytes(shift) + wanted + bytes(8 - shift)})
        assert not LEDGER.is_used(held, "wanted")
    held = Held(held.row, {**held.parts, "used": bytes(8) + wanted})
    assert LEDGER.is_used(held, "wanted")


def test_answers_of_an_older_server_count_as_used() -> None:
    """A session has answers and no list of ids: they count even after the next request has made the list."""
    old = {"answer/000000000001/a": b"x", "answer/000000000002/b": b""}
    held = opened()
    held = Held(held.row, {**held.parts, **old})
    assert [LEDGER.is_used(held, one) for one in "abc"] == [True, True, False]
    held = advanced(held, 1, "c", b"y")
    assert [LEDGER.is_used(held, one) for one in "abcd"] == [True, True, True, False]


def test_moves_are_remembered_with_their_contents() -> None:
    """A rewind is found by its id as long as the id is remembered, whatever turns came since; its id is used."""
    held = advanced(advanced(opened(), 2), 4)
    held = moved(held, LEDGER.rewind(held, at(2)), "back", b"first rewind")
    held = moved(held, LEDGER.mark(held, "c"), "mark", b"a checkpoint")
    assert LEDGER.find_move(held, "back") == Move(b"first rewind", 2)
    assert LEDGER.is_used(held, "back")
    for number in range(3):
        held = advanced(held, 5 + number, f"r{number}", b"x")
    assert LEDGER.find_move(held, "back") == Move(b"first rewind", 2)
    assert LEDGER.find_move(held, "mark") == Move(b"a checkpoint", 2)
    assert LEDGER.find_move(held, "r1") is None
    held = moved(held, LEDGER.mark(held, "c"), "more")
    assert LEDGER.find_move(held, "back") is None
    assert LEDGER.find_move(held, "mark") == Move(b"a checkpoint", 2)
    assert len(held.parts["moves"]) == 2 * 28


def test_find_gives_the_newest_snapshot_at_a_position() -> None:
    """The point is a position, a checkpoint, or now; another one is PositionUnknown, with the available points."""
    held = advanced(advanced(opened(), 2), 4)
    assert LEDGER.find(held, None, "") == at(4)
    assert LEDGER.find(held, 2, "") == at(2)
    with pytest.raises(PositionUnknown, match="0, 2, 4"):
        LEDGER.find(held, 3, "")
    with pytest.raises(PositionUnknown, match="'c'"):
        LEDGER.find(held, None, "c")
    twice = apply(held, LEDGER.advance(held, at(4, value=0.75), "", b""))
    assert LEDGER.find(twice, 4, "") == at(4, value=0.75)


def test_a_rewind_forgets_what_came_after() -> None:
    """Boundaries from the target on go, the target is the current one, and the revision still grows."""
    held = opened()
    for position in (2, 4, 6):
        held = advanced(held, position)
    back = apply(held, LEDGER.rewind(held, LEDGER.find(held, 2, "")))
    assert (back.row.position, back.row.revision, LEDGER.positions(back)) == (2, 4, [0, 2])
    assert LEDGER.current(back) == at(2)
    forth = advanced(back, 9)
    assert LEDGER.positions(forth) == [0, 2, 9]


def test_a_rewind_keeps_answers_and_checkpoints() -> None:
    """A late repeat still finds its answer, and a checkpoint ahead is still available."""
    held = advanced(opened(), 5, "r", b"x")
    held = apply(held, LEDGER.mark(held, "c"))
    back = apply(held, LEDGER.rewind(held, LEDGER.find(held, 0, "")))
    assert LEDGER.find_answer(back, "r") == b"x"
    ahead = apply(back, LEDGER.rewind(back, LEDGER.find(back, None, "c")))
    assert (ahead.row.position, LEDGER.positions(ahead), LEDGER.current(ahead)) == (5, [0, 5], at(5))


def test_a_checkpoint_outlives_its_boundary() -> None:
    """The checkpoint is there when the ring has forgotten the position, and moves when it is named again."""
    held = apply(opened(), LEDGER.mark(opened(), "c"))
    assert (held.row.revision, held.row.position, LEDGER.positions(held)) == (1, 0, [0])
    for position in range(1, 9):
        held = advanced(held, position)
    assert LEDGER.marks(held) == {"c": 0}
    assert LEDGER.find(held, None, "c") == at(0)
    moved = apply(held, LEDGER.mark(held, "c"))
    assert LEDGER.marks(moved) == {"c": 8}


def test_any_history_is_consistent() -> None:
    """After each of many random changes, the current snapshot is at the row's position, boundaries grow, and all parts
    keep their bounds."""
    dice = random.Random(5)
    held = opened()
    for number in range(2000):
        match dice.randrange(4):
            case 0:
                target = dice.choice(LEDGER.positions(held))
                held = apply(held, LEDGER.rewind(held, LEDGER.find(held, target, "")))
                assert held.row.position == target
            case 1:
                held = apply(held, LEDGER.mark(held, dice.choice("abc")))
            case _:
                request_id = dice.choice(["", f"r{number}"])
                held = advanced(held, held.row.position + dice.randrange(3), request_id, b"x" * dice.randrange(20))
        positions = LEDGER.positions(held)
        assert SnapshotCodec.position(LEDGER.current(held)) == held.row.position == positions[-1]
        assert len([key for key in held.parts if key.startswith("at/")]) == len(positions) <= RETENTION.max_turns + 1
        assert sum(key.startswith("answer/") for key in held.parts) <= RETENTION.max_answers
        assert held.row.revision == number + 1


def test_a_change_is_not_applied_to_what_is_held() -> None:
    """The rules are pure: the held session stays as it was."""
    held = advanced(opened(), 1)
    before = (held.row, dict(held.parts))
    LEDGER.advance(held, at(3), "r", b"x")
    LEDGER.rewind(held, at(0))
    LEDGER.mark(held, "c")
    assert (held.row, dict(held.parts)) == before


Turns = list[tuple[str, bytes]]  # request id and answer of each turn


def advanced_at_once(held: Held, turns: Turns) -> Held:
    """Writes turns as for a held session: the last boundaries, all ids, the answers of the last of these."""
    first = held.row.position
    numbers = range(1, len(turns) + 1)[-RETENTION.max_turns - 1 :]
    boundaries = [Boundary(number, at(first + number)) for number in numbers]
    named = [(number, name, answer) for number, (name, answer) in enumerate(turns, 1) if name]
    known = LEDGER.answer_keys(held)
    kept: list[str | tuple[int, str, bytes]] = [*known]
    for number, name, answer in named:
        del kept[: LEDGER.num_dropped(len(kept))]
        if answer:
            kept.append((number, name, answer))
    answers = [one for one in kept if not isinstance(one, str)]
    dropped = [key for key in known if key not in kept]
    return apply(held, LEDGER.advance_many(held, boundaries, [name for _, name, _ in named], answers, dropped))


def advanced_one_by_one(held: Held, turns: Turns) -> Held:
    for name, answer in turns:
        held = advanced(held, held.row.position + 1, name, answer)
    return held


def seen(held: Held, names: list[str]) -> object:
    """Returns all that one can find out about a session's past. A turn among several gives its boundary no name."""
    answers = {name: LEDGER.find_answer(held, name) for name in names}
    used = {name: LEDGER.is_used(held, name) for name in names}
    boundaries = {position: LEDGER.find(held, position, "") for position in LEDGER.positions(held)}
    num_parts = len([key for key in held.parts if not key.startswith("as/")])
    return LEDGER.current(held), boundaries, LEDGER.marks(held), answers, used, num_parts


EVENT = st.integers(1, 12) | st.sampled_from(["mark", "rewind"])


@given(st.lists(st.tuples(EVENT, st.integers(0, 2)), max_size=12))
def test_turns_that_are_written_together_are_as_many_turns(events: list[tuple[int | str, int]]) -> None:
    """They give the same boundaries, answers, ids, checkpoints and number of parts, whatever lies between."""
    one, other, names = opened(), opened(), list[str]()
    for event, share in events:
        if isinstance(event, int):
            turns: Turns = []
            for _ in range(event):
                name = f"r{len(names)}" if len(names) % 3 >= share else ""
                names.append(name)
                turns.append((name, name.encode()))
            one, other = advanced_one_by_one(one, turns), advanced_at_once(other, turns)
        elif event == "mark":
            one, other = apply(one, LEDGER.mark(one, f"m{share}")), apply(other, LEDGER.mark(other, f"m{share}"))
        else:
            position = LEDGER.positions(one)[share % len(LEDGER.positions(one))]
            one, other = (apply(held, LEDGER.rewind(held, LEDGER.find(held, position, ""))) for held in (one, other))
        assert seen(one, names) == seen(other, names)


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.lists(st.booleans(), max_size=12))
def test_answers_that_are_not_kept_cost_the_last_ones_none(before: list[bool], together: list[bool]) -> None:
    """Answers that are too large affect the others as they do in turns one by one."""
    count = itertools.count()

    def make(kept: list[bool]) -> Turns:
        return [(f"r{next(count)}", b"fits" if is_kept else b"") for is_kept in kept]

    held = advanced_one_by_one(opened(), make(before))
    turns = make(together)
    if not turns:
        return
    one, other = advanced_one_by_one(held, turns), advanced_at_once(held, turns)
    names = [f"r{number}" for number in range(len(before) + len(together))]
    assert seen(one, names) == seen(other, names)


def test_keys_of_turns_that_were_written_together_stand_in_order() -> None:
    """The keys stand in order among those of other turns, before and after, so the oldest are the ones cut."""
    held = advanced_one_by_one(opened(), [("a", b"1")])
    held = advanced_at_once(held, [("b", b"2"), ("c", b"3")])
    held = advanced_one_by_one(held, [("d", b"4")])
    boundaries = sorted(key for key in held.parts if key.startswith("at/"))
    assert [SnapshotCodec.position(held.parts[key]) for key in boundaries] == [1, 2, 3, 4]
    answers = sorted(key for key in held.parts if key.startswith("answer/"))
    assert [held.parts[key] for key in answers] == [b"3", b"4"]
