"""A recorded answer comes back as it was given, bit for bit, and only to the request that it answers."""

import math
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from tests.worlds import Plan, running_world

from carousel.sessions.answers import (
    Answer,
    GenerationAnswer,
    Record,
    ScoringAnswer,
    answered_position,
    fingerprint,
    max_plain_bytes,
    read_record,
    write_plain_record,
    write_record,
)
from carousel.sessions.requests import (
    Caller,
    GenerationEnd,
    GenerationRequest,
    Prediction,
    PredictionRequest,
    ScoredToken,
    ScoreTotals,
    ScoringRequest,
    Standing,
    Word,
)
from carousel.turns import Candidate, FinishReason, Generated, SamplingOptions

FLOATS = some.floats(allow_nan=False)
IDS = some.integers(0, 2**31 - 1)
TEXTS = some.text(max_size=6)
CANDIDATES = some.lists(some.builds(Candidate, IDS, FLOATS), max_size=3).map(tuple)
STANDINGS = some.builds(Standing, some.integers(0, 2**63 - 1), some.just(0))
GENERATED = some.builds(Generated, IDS, some.none() | FLOATS, CANDIDATES)
ENDS = some.builds(
    GenerationEnd, some.sampled_from(FinishReason), TEXTS, STANDINGS, IDS, IDS, some.integers(0, 2**64 - 1)
)
GENERATIONS = some.builds(GenerationAnswer, some.lists(GENERATED, max_size=4).map(tuple), TEXTS, ENDS)
SCORED = some.lists(some.builds(ScoredToken, IDS, FLOATS, IDS, some.booleans(), TEXTS), max_size=4).map(tuple)
ANSWERS = (
    some.lists(GENERATIONS, min_size=1, max_size=3).map(tuple)
    | some.builds(ScoringAnswer, SCORED, some.builds(ScoreTotals, IDS, FLOATS, IDS, STANDINGS))
    | some.builds(
        Prediction, CANDIDATES, some.lists(some.builds(Word, TEXTS, FLOATS), max_size=3).map(tuple), STANDINGS
    )
)


@settings(derandomize=True, database=None, deadline=None, max_examples=150)
@given(IDS, some.sampled_from([1, 2, 9, 10, 11, 256]), some.lists(some.tuples(IDS, FLOATS), max_size=12), IDS)
def test_a_plain_prediction_has_the_record_that_any_has(
    token_id: int, num_candidates: int, found: list[tuple[int, float]], position: int
) -> None:
    """Byte for byte, its fingerprint too, and no longer than is said."""
    prediction = Prediction(tuple(Candidate(*one) for one in found), (), Standing(position, 0))
    expected = write_record(Record(fingerprint(PredictionRequest((token_id,), num_candidates)), prediction))
    ids, log_probabilities = [one for one, _ in found], [value for _, value in found]
    assert write_plain_record(token_id, num_candidates, ids, log_probabilities, position) == expected
    assert len(expected) <= max_plain_bytes(len(found))


@settings(derandomize=True, database=None, deadline=None, max_examples=150)
@given(ANSWERS)
def test_an_answer_comes_back_bit_for_bit(answer: Answer) -> None:
    """Any answer of any kind: the same kind, the same values; repr tells -0.0 from 0.0."""
    record = Record("print", answer)
    back = read_record(write_record(record))
    assert back == record
    assert repr(back) == repr(record)


@pytest.mark.parametrize(
    "value", [0.1 + 0.2, -0.0, 5e-324, 1.7976931348623157e308, struct.unpack("f", b"\x01\x02\x03\xbe")[0], -math.inf]
)
def test_a_float_keeps_its_bits(value: float) -> None:
    """Also those that a careless number format loses."""
    back = read_record(write_record(Record("p", Prediction((Candidate(1, value),), (), Standing(1, 0)))))
    assert isinstance(back.answer, Prediction)
    assert struct.pack("d", back.answer.candidates[0].log_probability) == struct.pack("d", value)


def test_the_position_of_an_answer_is_where_its_turn_ended() -> None:
    """For each kind."""
    standing = Standing(7, 0)
    end = GenerationEnd(FinishReason.STOP, "", standing, 1, 2, 3)
    other = replace(end, standing=Standing(9, 0))
    assert answered_position((GenerationAnswer((), "", end), GenerationAnswer((), "", other))) == 7
    assert answered_position(ScoringAnswer((), ScoreTotals(0, 0.0, 0, standing))) == 7
    assert answered_position(Prediction((), (), standing)) == 7


def test_a_fingerprint_tells_requests_apart() -> None:
    """Equal requests have one fingerprint; any difference, of kind or of a single value, makes another."""
    different: list[Any] = [
        GenerationRequest("a"),
        GenerationRequest("b"),
        GenerationRequest((1,)),
        GenerationRequest("a", max_tokens=5),
        GenerationRequest("a", SamplingOptions(seed=1)),
        GenerationRequest("a", SamplingOptions(seed=1, temperature=0.1)),
        GenerationRequest("a", SamplingOptions(seed=1, temperature=0.1 + 1e-17 + 1e-16)),
        PredictionRequest("a"),
        ScoringRequest("a"),
    ]
    prints = [fingerprint(one) for one in different]
    assert len(set(prints)) == len(prints)
    assert prints == [fingerprint(replace(one)) for one in different]


async def test_real_answers_are_recorded_as_they_were_given() -> None:
    """What the engine gives, numbers of its own kinds included, is what a repeat gets."""
    async with running_world(Plan()) as world:
        await world.open()
        options = SamplingOptions(seed=3)
        request = GenerationRequest("ab", options, 6, num_branches=2, num_log_probabilities=3)
        calls: list[Callable[[], Any]] = [
            lambda: _collect(world.sessions.generate(Caller("ann", "s", request_id="g"), request)),
            lambda: _collect(world.sessions.score(Caller("ann", "s", request_id="c"), ScoringRequest("abc"))),
            lambda: _one(world.sessions.predict(Caller("ann", "s", request_id="p"), _WORDS)),
        ]
        for call in calls:
            assert _content(await call()) == _content(await call())


_WORDS = PredictionRequest("a", 5, "b", 3)


async def _collect(pieces: Any) -> list[Any]:
    return [piece async for piece in pieces]


async def _one(prediction: Any) -> list[Any]:
    return [await prediction]


def _content(pieces: list[Any]) -> Any:
    """All that pieces say, however they are cut, without standings."""
    if isinstance(pieces[0], Prediction):
        return repr([replace(one, standing=Standing(0, 0)) for one in pieces])
    if hasattr(pieces[0], "totals"):
        totals = replace(pieces[-1].totals, standing=Standing(0, 0))
        return repr(([token for piece in pieces for token in piece.tokens], totals))
    branches: dict[int, list[Any]] = {}
    for piece in pieces:
        branch = branches.setdefault(piece.branch, [[], "", None])
        branch[0] += piece.tokens
        branch[1] += piece.text
        branch[2] = piece.end and replace(piece.end, standing=Standing(0, 0))
    return repr(sorted(branches.items()))
