"""What a retry brings again is left out when it is equal, and refused when it differs."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carousel.client import (
    AnswerChanged,
    Finished,
    GeneratedToken,
    Piece,
    ScoredToken,
    ScorePiece,
    ScoreTotals,
)
from carousel.client.core.resume import GenerationResume, ScoringResume

END = Finished("length", "", 9, 1, 5, 0)


def _piece(text: str, *ids: int, finished: Finished | None = None, branch: int = 0) -> Piece:
    return Piece(text, tuple(GeneratedToken(index, None, ()) for index in ids), finished, branch)


def _scores(*log_probabilities: float, totals: ScoreTotals | None = None, text: str = "a") -> ScorePiece:
    return ScorePiece(tuple(ScoredToken(7, value, 1, True, text) for value in log_probabilities), totals)


def _accept(resume: GenerationResume, *pieces: Piece) -> list[Piece]:
    return [new for piece in pieces for new in resume.accept(piece)]


def _ids(pieces: Iterable[Piece]) -> list[int]:
    return [token.id for piece in pieces for token in piece.tokens]


def test_a_repeat_in_other_portions_is_cut_right() -> None:
    """Text may lag behind its tokens and come in other pieces the second time."""
    resume = GenerationResume()
    first = _accept(resume, _piece("", 1), _piece("é", 2), _piece("", 3))
    resume.restart()
    second = _accept(resume, _piece("éab", 1, 2, 3, 4), _piece("c", 5, finished=END))
    assert [one.text for one in (*first, *second)] == ["", "é", "", "ab", "c"]
    assert _ids((*first, *second)) == [1, 2, 3, 4, 5]
    resume.restart()
    assert resume.accept(_piece("éabc", 1, 2, 3, 4, 5, finished=replace(END, durable_position=9, is_replay=True))) == []
    assert resume.position == 9


@settings(deadline=None)
@given(
    text=st.text(st.characters(), max_size=12),
    ids=st.lists(st.integers(0, 2**31 - 1), max_size=12),
    cuts=st.lists(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=4), min_size=1, max_size=4),
)
def test_wherever_it_is_cut_each_part_comes_once(text: str, ids: list[int], cuts: list[list[tuple[int, int]]]) -> None:
    """Whatever the portions of text and ids, lone surrogates too, and wherever each attempt breaks: the answer is
    complete and comes once."""
    resume = GenerationResume()
    got: list[Piece] = []
    for number, attempt in enumerate(cuts):
        done_text = done_ids = 0
        for in_text, in_ids in zip(*(sorted(column) for column in zip(*attempt, strict=True)), strict=True):
            got += resume.accept(_piece(text[done_text:in_text], *ids[done_ids:in_ids]))
            done_text, done_ids = max(done_text, in_text), max(done_ids, in_ids)
        if number == len(cuts) - 1:
            got += resume.accept(_piece(text[done_text:], *ids[done_ids:], finished=END))
        resume.restart()
    assert "".join(piece.text for piece in got) == text
    assert _ids(got) == ids
    assert [piece.finished for piece in got if piece.finished] == [END]


@pytest.mark.parametrize(
    "again",
    [
        [_piece("ab", 1, 2, 4)],
        [_piece("ax", 1, 2, 3)],
        [_piece("ab", 1), _piece("", 9)],
        [_piece("ab", 1, 2, finished=END)],
        [_piece("a", 1, 2, 3, finished=END)],
        [_piece("", finished=END)],
    ],
)
def test_another_answer_is_refused(again: list[Piece]) -> None:
    """The ids or text differ, or the answer ends before all delivered parts have come again: none of it is returned."""
    resume = GenerationResume()
    _accept(resume, _piece("", 1), _piece("ab", 2, 3))
    resume.restart()
    with pytest.raises(AnswerChanged) as caught:
        _accept(resume, *again, _piece("c", 7, finished=END))
    assert (caught.value.code, caught.value.reason) == ("ABORTED", "ANSWER_CHANGED")
    assert resume.position is None


def test_nothing_new_comes_before_all_that_is_known_has_come_again() -> None:
    """Matching ids do not confirm the text, nor one branch another: new parts wait."""
    resume = GenerationResume()
    _accept(resume, _piece("a", 1), _piece("x", 8, branch=1))
    resume.restart()
    assert _accept(resume, _piece("", 1, 2), _piece("ab", 3), _piece("", 8, branch=1)) == []
    assert _accept(resume, _piece("xy", 9, branch=1)) == [
        _piece("", 2),
        _piece("b", 3),
        _piece("y", 9, branch=1),
    ]
    resume.restart()
    assert _accept(resume, _piece("ab", 1, 2, 3, 4)) == []
    resume.restart()  # what waited was not delivered: it comes with the next try
    assert _accept(resume, _piece("ab", 1, 2, 3), _piece("xy", 8, 9, branch=1), _piece("c", 4)) == [_piece("c", 4)]


@pytest.mark.parametrize("wrong", [{"reason": "stop"}, {"stop": "x"}, {"position": 8}, {"seed": 1}])
def test_a_branch_that_ends_otherwise_is_refused(wrong: dict[str, object]) -> None:
    """A delivered end is compared like text; only the durable position and the replay flag may differ."""
    resume = GenerationResume()
    _accept(resume, _piece("a", 1, finished=END, branch=1), _piece("a", 1))
    resume.restart()
    same = replace(END, durable_position=4, is_replay=True)
    assert _accept(resume, _piece("a", 1, finished=same, branch=1)) == []
    resume.restart()
    with pytest.raises(AnswerChanged):
        resume.accept(_piece("a", 1, finished=replace(END, **wrong), branch=1))  # type: ignore[arg-type]


def test_log_probabilities_may_differ() -> None:
    """Generated tokens are compared by id: the last bits of another processor do not make another answer."""
    resume = GenerationResume()
    resume.accept(Piece("a", (GeneratedToken(1, -0.5, ()),), None))
    resume.restart()
    assert resume.accept(Piece("a", (GeneratedToken(1, -0.5000001, ()), GeneratedToken(2, -1.0, ())), None)) == [
        Piece("", (GeneratedToken(2, -1.0, ()),), None)
    ]


def test_a_rating_is_compared_with_a_tolerance() -> None:
    """The caller knows the tokens; only the log-probabilities show that the same state scored them."""
    totals = ScoreTotals(3, -4.0, 1.0, 3, 9)
    resume = ScoringResume()
    assert resume.accept(_scores(-0.5)) == [_scores(-0.5)]
    assert resume.accept(_scores(-20.0)) == [_scores(-20.0)]
    resume.restart()
    assert resume.accept(_scores(-0.5001)) == []
    assert resume.accept(_scores(-20.01, -1.0)) == [_scores(-1.0)]
    resume.restart()
    assert resume.accept(_scores(-0.5, -20.0)) == []
    assert resume.accept(_scores(-1.0, totals=totals)) == [_scores(totals=totals)]
    assert resume.position == 9


@pytest.mark.parametrize(
    ("before", "same", "other"), [(-0.5, -0.509, -0.511), (-0.5, -0.491, -0.489), (-20.0, -20.19, -20.25)]
)
def test_a_rating_differs_by_a_hundredth_at_most(before: float, same: float, other: float) -> None:
    """A hundredth of a nat or, far below 0, of the value itself; docs/sessions.md promises this."""
    resume = ScoringResume()
    resume.accept(_scores(before))
    resume.restart()
    assert resume.accept(_scores(same)) == []
    resume.restart()
    with pytest.raises(AnswerChanged):
        resume.accept(_scores(other))


def test_a_rating_near_certainty_is_compared_with_the_same_tolerance() -> None:
    """Near zero, a relative tolerance would be none."""
    resume = ScoringResume()
    resume.accept(_scores(-0.0001))
    resume.restart()
    assert resume.accept(_scores(-0.0002)) == []


@pytest.mark.parametrize(
    "again",
    [
        _scores(-0.5, -0.7, totals=ScoreTotals(2, -1.2, 1.0, 2, 9)),
        _scores(-0.5, -0.6, text="b"),
        _scores(-0.5, totals=ScoreTotals(1, -0.5, 1.0, 1, 9)),
    ],
)
def test_another_rating_is_refused(again: ScorePiece) -> None:
    """This is another state's score, other tokens, or fewer of them."""
    resume = ScoringResume()
    resume.accept(_scores(-0.5, -0.6))
    resume.restart()
    with pytest.raises(AnswerChanged):
        resume.accept(again)
    assert resume.position is None
