# Generated from tests/server/client/_async/test_predictors.py by `make client`: change that file, not this one.
"""Requests and answers go over one stream that stays open, and ends in order."""

from typing import Any

import pytest
from tests.server.client._sync.conftest import Naps
from tests.server.client.running.blocking import Running, happens
from tests.server.fake_service import OVERLOADED, WAIT, FakeService, Mishap

from carousel.client import Client, Retries, ServerError, Session
from carousel.client.wires.blocking import WireOptions
from carousel.errors import Overloaded


def test_the_predictor_asks_over_one_stream(client: Client, service: FakeService) -> None:
    """Each call feeds its text to the same sequence; a prefix asks for words and is not fed."""
    with client.predictor() as predict:
        first = predict("abc", k=2)
        second = predict(k=1, word_prefix=" ca", num_words=2)
    assert (first.position, second.position) == (3, 3)
    assert [candidate.probability for candidate in first.candidates] == pytest.approx([1, 0.36788], abs=1e-4)
    assert first.words == ()
    assert [word.text for word in second.words] == [" caa", " cab"]
    assert len(service.metadata) == 2


def test_a_predictor_stream_that_ends_early_is_an_error(client: Client) -> None:
    """The server's end of the stream is not an answer."""
    with client.predictor() as predict:
        predict("end")
        with pytest.raises(ServerError, match="ended the stream"):
            predict("more")


def test_a_refused_value_names_its_field(client: Client) -> None:
    """Field violations are decoded, from a prediction stream too."""
    with pytest.raises(ServerError) as caught:
        with client.predictor() as predict:
            predict("bad")
    assert caught.value.code == "INVALID_ARGUMENT"
    assert [violation.field for violation in caught.value.violations] == ["sampling.top_p"]
    assert caught.value.retry_after_seconds is None


@pytest.mark.parametrize("has_session", [False, True])
def test_a_stream_of_questions_ends_in_order(
    client: Client, session: Session, service: FakeService, has_session: bool
) -> None:
    """After the last answer, the server sees a normal end and not a cancellation."""
    asker: Any = session.predictor() if has_session else client.predictor()
    with asker as predict:
        predict("a")
    assert happens(service.is_ended)


@pytest.mark.parametrize("has_session", [False, True])
def test_a_predictor_is_asked_one_question_at_a_time(
    client: Client, session: Session, service: FakeService, has_session: bool
) -> None:
    """A second request is refused, and neither the first nor the next one is affected."""
    asker: Any = session.predictor() if has_session else client.predictor()
    with asker as predict:
        first = Running(lambda: predict(WAIT))
        assert happens(service.is_waiting)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="one request at a time"):
                predict("b")
        service.is_cancelled.set()
        assert (first.result()).position == len(WAIT)
        assert (predict("c")).position == len(WAIT) + 1


@pytest.mark.parametrize("num_refused", [1, 5])
def test_a_first_question_is_put_again_while_the_server_is_busy(
    client: Client, service: FakeService, naps: Naps, num_refused: int
) -> None:
    """The retry comes after the pause that the server asks for: nothing was done, so nothing is done twice."""
    service.mishaps = [Mishap(error=OVERLOADED)] * num_refused
    with client.predictor() as predict:
        assert (predict("ab")).position == 2
        assert (predict("c")).position == 3
    assert len(naps.seconds) == num_refused
    assert min(naps.seconds) > 0.25


def test_a_sequence_that_is_lost_is_not_begun_anew(client: Client, service: FakeService) -> None:
    """When a running sequence is refused for load, the request is retried where the sequence can continue; otherwise it
    fails."""
    with client.predictor() as predict:
        assert (predict("a")).position == 1
        service.mishaps = [Mishap(error=OVERLOADED)]
        outcome = Running(lambda: predict("b")).outcome()
    assert outcome.position == 2 or outcome.reason == "OVERLOADED"


def test_a_question_on_a_session_is_put_again_at_any_time(
    client: Client, session: Session, service: FakeService, naps: Naps
) -> None:
    """This holds even without an id: the session is unchanged."""
    with client.predictor(session_id="mine") as predict:
        assert (predict("a")).position == 1
        service.mishaps = [Mishap(error=OVERLOADED)] * 2
        assert (predict("b")).position == 2
    assert len(naps.seconds) == 2


def test_a_busy_server_is_not_asked_for_ever(
    address: str, service: FakeService, naps: Naps, of_wire: WireOptions
) -> None:
    """The client's retries bound the attempts; then the predictor has ended."""
    service.mishaps = [Mishap(error=OVERLOADED)] * 9
    with (
        Client(address, retries=Retries(max_attempts=3), sleep=naps, **of_wire) as client,
        client.predictor() as predict,
    ):
        for _ in range(2):
            with pytest.raises(ServerError) as caught:
                predict("a")
        assert caught.value.code in ("RESOURCE_EXHAUSTED", "CANCELLED")
    assert len(naps.seconds) == 2
    assert len(service.mishaps) == 6


def test_a_question_that_waits_for_its_turn_has_its_time(client: Client, service: FakeService, naps: Naps) -> None:
    """The client does not start a pause that exceeds the timeout."""
    service.mishaps = [Mishap(error=Overloaded("too many turns", limit="max_queued_turns", retry_seconds=30))] * 9
    with pytest.raises(ServerError) as caught:
        client.predict("a", timeout_seconds=20)
    assert caught.value.reason == "OVERLOADED"
    assert naps.seconds == []


@pytest.mark.parametrize("has_session", [False, True])
def test_a_predictor_is_over_with_its_block(
    client: Client, session: Session, service: FakeService, has_session: bool
) -> None:
    """Every later request fails: nothing would end the stream that it starts."""
    asker: Any = session.predictor() if has_session else client.predictor()
    with asker as predict:
        predict("a")
    num_asked = len(service.requests)
    for _ in range(3):
        with pytest.raises(ServerError, match="cancelled") as caught:
            predict("b")
        assert caught.value.code == "CANCELLED"
    assert len(service.requests) == num_asked
    assert session.position == (1 if has_session else 0)


@pytest.mark.parametrize("has_session", [False, True])
def test_a_predictor_whose_block_ends_in_a_pause_is_not_asked_again(
    client: Client, session: Session, service: FakeService, naps: Naps, has_session: bool
) -> None:
    """When another task or thread leaves the block, the waiting request ends too."""
    asker: Any = session.predictor() if has_session else client.predictor()

    def leave() -> None:
        asker.__exit__(None, None, None)

    service.mishaps = [Mishap(error=OVERLOADED)]
    naps.meanwhile.append(leave)
    with pytest.raises(ServerError, match="cancelled") as caught:
        asker("a")
    assert caught.value.code == "CANCELLED"
    assert (len(naps.seconds), len(service.requests)) == (1, 1)
