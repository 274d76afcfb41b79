"""The chaos checker finds each planted fault in the clients' answers, and nothing where there is none."""

import random
from dataclasses import replace

from trials.checker import check, check_line, check_listing, count_different, unbroken
from trials.histories import History, Line, Listing, Turn, Wish, draw_wish


def _line(*sizes: int) -> Line:
    """Returns turns that lie end to end, as they should."""
    turns: list[Turn] = []
    for size in sizes:
        position = (turns[-1].position or 0) if turns else 0
        turns.append(Turn(Wish("generate", (7,), size - 1, 0), position + size, (size,)))
    return Line(turns, sum(sizes))


def _faults(line: Line) -> tuple[int, int]:
    """Returns the numbers of lost and doubled turns."""
    totals = check_line(line)
    return totals["lost"], totals["doubled"]


def test_turns_that_lie_end_to_end_are_right() -> None:
    """This holds for any order of answers, with or without a final query."""
    line = _line(3, 5, 2)
    assert _faults(line) == (0, 0)
    assert _faults(Line(line.turns[::-1], 10)) == (0, 0)
    assert _faults(Line(line.turns, None)) == (0, 0)
    assert _faults(Line([], 0)) == (0, 0)


def test_a_turn_that_the_session_does_not_have_is_lost() -> None:
    """It was acknowledged, but the next turn starts before its end, or the session ends there."""
    line = _line(3, 5, 2)
    taken_back = replace(line.turns[2], position=5)
    assert _faults(Line([*line.turns[:2], taken_back], 5)) == (2, 0)
    assert _faults(Line(line.turns, 8)) == (1, 0)


def test_a_turn_that_was_applied_twice_is_doubled() -> None:
    """The next turn starts beyond its end, or the session is further than any answer said."""
    line = _line(3, 5, 2)
    assert _faults(Line(line.turns, 12)) == (0, 1)
    assert _faults(Line([line.turns[0], line.turns[2]], 10)) == (0, 1)
    assert _faults(Line(line.turns[1:], 10)) == (0, 1)


def test_a_turn_without_an_answer_fills_one_gap() -> None:
    """ANSWER_GONE is a turn that was applied once: it leaves neither a gap nor an excess."""
    line = _line(3, 5, 2)
    gone = replace(line.turns[1], position=None)
    assert _faults(Line([line.turns[0], gone, line.turns[2]], 10)) == (0, 0)
    assert _faults(Line([*line.turns[:1], gone], 8)) == (0, 0)
    assert _faults(Line([*line.turns, gone], 10)) == (1, 0)
    assert _faults(Line([line.turns[0], gone, line.turns[2]], 15)) == (0, 2)


def test_sessions_are_exactly_those_that_were_made() -> None:
    """An extra child is doubled; one that is missing or too early is lost."""
    assert not check_listing(Listing({"a": 3, "b": 0}, {"a": 3, "b": 0})).total()
    assert check_listing(Listing({"a": 3}, {"a": 3, "b": 0})) == {"lost": 0, "doubled": 1}
    assert check_listing(Listing({"a": 3, "b": 0}, {"a": 3})) == {"lost": 1, "doubled": 0}
    assert check_listing(Listing({"a": 3}, {"a": 2})) == {"lost": 1, "doubled": 0}
    assert check_listing(Listing({"a": 3}, {"a": 4})) == {"lost": 0, "doubled": 1}


def test_totals_tell_who_gave_up_and_why() -> None:
    """A client of the library counts on its own line, a session that ended while in use on another."""
    histories = [
        History("stepwise", [_line(2, 2)], num_retries=3),
        History("asyncio", trouble="UNKNOWN : broken"),
        History("stepwise", trouble="gone", trouble_reason="SESSION_EXPIRED"),
        History("blocking", [Line(_line(4).turns, 5)], [Listing({}, {"a": 0})]),
    ]
    assert +check(histories, 45.0) == {
        "turns": 3,
        "retries": 3,
        "unfinished": 2,
        "library_unfinished": 1,
        "ended_in_use": 1,
        "doubled": 2,
    }


def test_who_was_not_served_for_long_is_starved() -> None:
    """A session expires by right then. Any other end, or an expiry of one that was served lately, is a fault."""
    starved = History("asyncio", trouble="gone", trouble_reason="SESSION_EXPIRED", silent_seconds=46.0)
    assert +check([starved], 45.0) == {"starved": 1}
    for other in (replace(starved, silent_seconds=44.0), replace(starved, trouble_reason="SESSION_DELETED")):
        assert +check([other], 45.0) == {"unfinished": 1, "library_unfinished": 1, "ended_in_use": 1}


def test_the_silence_before_a_trouble_is_measured() -> None:
    """From the last answer on."""
    history = History("asyncio")
    history.heard_at -= 100.0
    history.note_trouble("gone", "SESSION_EXPIRED")
    assert history.is_starved(99.0)
    history.hear()
    history.note_trouble("gone", "SESSION_EXPIRED")
    assert not history.is_starved(1.0)


def test_what_can_be_repeated_ends_at_the_first_gap() -> None:
    """A quiet server repeats the turns in order of position, as far as that order is known."""
    line = _line(3, 5, 2)
    assert unbroken(Line(line.turns[::-1], 10)) == line.turns
    gone = replace(line.turns[1], position=None)
    assert unbroken(Line([line.turns[0], gone, line.turns[2]], 10)) == line.turns[:1]


def test_another_answer_is_different() -> None:
    """This holds even for one token among many."""
    turns = _line(3, 5, 2).turns
    assert count_different(turns, turns) == 0
    assert count_different(turns, [*turns[:2], replace(turns[2], answer=(9,))]) == 1


def test_a_line_is_cut_at_a_boundary() -> None:
    """What came after a rewind's target is no longer part of the session."""
    line = _line(3, 5, 2)
    assert line.cut(8).turns == line.turns[:2]
    assert line.cut(0).turns == []


def test_a_wish_moves_its_session_by_its_size() -> None:
    """The size is fed plus generated tokens; only a generation generates."""
    assert Wish("generate", (1, 2), 5, 0).size == 7
    assert Wish("predict", (1, 2), 5, 0).size == 2
    assert {draw_wish(random.Random(seed), 9).call for seed in range(20)} == {"generate", "predict", "score"}
