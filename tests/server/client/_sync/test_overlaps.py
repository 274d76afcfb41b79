# Generated from tests/server/client/_async/test_overlaps.py by `make client`: change that file, not this one.
"""Turns that overlap on one session happen once, whatever the connection does."""

import functools
import random
from collections.abc import Sequence
from typing import Any

import pytest
from tests.server.client._sync.conftest import Naps, read
from tests.server.client.running.blocking import Meeting, Running
from tests.server.fake_service import OVERLOADED, STOPPING, FakeService, Mishap

from carousel.client import Client, Prediction, Retries, ServerError, Session
from carousel.client.wires.blocking import WireOptions

NUM = 8  # one runs, seven wait
NUM_MISHAPS = 60
LOST = Mishap(is_applied=True)


@pytest.mark.parametrize("retained", [4, NUM])
def test_overlapping_predictions_happen_once(
    address: str, service: FakeService, of_wire: WireOptions, retained: int
) -> None:
    """The connection breaks when all are applied, and all are retried. No position is expected: whichever turn is
    first is applied at once."""
    until_all_are_lost = Meeting(NUM).wait
    with Client(address, sleep=until_all_are_lost, **of_wire) as client:
        session = client.open_session((client.create_session("mine")).session_id)
        service.retained_answers, service.mishaps = retained, [LOST] * NUM
        asked = [Running(lambda: session.predict("x", k=1)) for _ in range(NUM)]
        _check([one.outcome() for one in asked], retained, service)
        assert session.position is None
        assert (session.get()).position == session.position == NUM


@pytest.mark.parametrize("seed", range(5))
def test_conversations_side_by_side_survive_what_breaks_between(
    address: str, service: FakeService, naps: Naps, of_wire: WireOptions, seed: int
) -> None:
    """Requests and answers are lost, the server refuses for load and stops: every turn of every session is applied
    once, in order, with any sharing of streams."""
    chosen = random.Random(seed)
    kinds = [Mishap(), LOST, Mishap(error=OVERLOADED), Mishap(error=STOPPING), *[None] * 8]
    patient = Retries(max_attempts=NUM_MISHAPS + 1)  # one call may meet all mishaps

    def converse(session: Session) -> list[int]:
        with session.predictor() as predict:
            return [(predict("x" * length, k=1)).position for length in (1, 2, 3, 4, 5)]

    with Client(address, timeout_seconds=20, sleep=naps, retries=patient, **of_wire) as client:
        sessions = [client.open_session((client.create_session()).session_id, position=0) for _ in range(NUM)]
        service.mishaps = chosen.choices(kinds, k=NUM_MISHAPS)
        asked = [Running(functools.partial(converse, session)) for session in sessions]
        assert [one.result() for one in asked] == [[1, 3, 6, 10, 15]] * NUM
    assert list(service.positions.values()) == [15] * NUM
    applied = [len(session.applied) for session in service.kept.values()]
    assert applied == [5] * NUM


def _check(answers: Sequence[Prediction | BaseException], retained: int, service: FakeService) -> None:
    """Each call has its own answer, or the error that it is gone; nothing was applied twice."""
    assert service.positions == {"mine": NUM}
    assert len({request.request_id for request in service.requests}) == NUM
    told = [answer.position for answer in answers if isinstance(answer, Prediction)]
    gone = [answer.reason for answer in answers if isinstance(answer, ServerError)]
    assert sorted(told) == list(range(NUM - retained + 1, NUM + 1))
    assert gone == ["ANSWER_GONE"] * (NUM - retained)


@pytest.mark.parametrize("turn", ["feed", "predict", "score"])
def test_a_turn_that_was_overtaken_goes_on_after_the_other(
    session: Session, service: FakeService, naps: Naps, turn: str
) -> None:
    """The turn was refused for load and another turn of this session came first: the client had no order in mind, so it
    drops the expectation."""
    turns: dict[str, Any] = {
        "feed": session.feed,
        "predict": session.predict,
        "score": lambda text: read(session.score(text)),
    }
    service.mishaps = [Mishap(error=OVERLOADED)]
    naps.meanwhile = [lambda: session.feed("b")]
    turns[turn]("a")
    assert service.positions == {"mine": 2}
    expected = [request.HasField("expected_position") for request in service.requests]
    assert expected == [True, False, True, False]
    assert len({request.request_id for request in service.requests}) == 2
    assert session.position is None


@pytest.mark.parametrize("turn", ["feed", "predict"])
def test_an_overtaken_turn_in_doubt_is_not_asked_for_again(
    session: Session, service: FakeService, naps: Naps, turn: str
) -> None:
    """Its answer was lost and no record remains: it may have been applied, so the refusal counts."""
    service.mishaps = [LOST]

    def overtake() -> None:
        session.feed("b")
        service.forget_answers(with_ids=True)

    naps.meanwhile = [overtake]
    with pytest.raises(ServerError) as caught:
        getattr(session, turn)("a")
    assert (caught.value.reason, caught.value.position) == ("POSITION_MISMATCH", 2)


def test_the_callers_own_expectation_stays(session: Session, service: FakeService, naps: Naps) -> None:
    """A caller that sets an expected position gets an error when the session is elsewhere."""
    service.mishaps = [Mishap(error=OVERLOADED)]
    naps.meanwhile = [lambda: session.feed("b")]
    with pytest.raises(ServerError) as caught:
        session.feed("a", expected_position=0)
    assert caught.value.reason == "POSITION_MISMATCH"
