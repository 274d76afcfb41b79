"""A field that the wire leaves unset has the documented default, and answers carry all that they were given."""

import json
from dataclasses import fields, replace

import pytest
from google.protobuf import duration_pb2
from tests.fakes import byte_tokenizer
from tests.worlds import Plan, make_manifest

from carousel.bundle.chat import ChatFormat
from carousel.rpc import convert
from carousel.sessions import requests
from carousel.sessions.operations import Point
from carousel.sessions.requests import GenerationEnd, GenerationPiece
from carousel.settings import Settings
from carousel.turns import Candidate, FinishReason, Generated, SamplingOptions
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import sessions_pb2, types_pb2

BYTES = byte_tokenizer()
STANDING = requests.Standing(2**40, 2**39, b"sealed", is_replay=True)


def test_unset_fields_are_the_defaults() -> None:
    """Empty messages mean what the contract documents as defaults."""
    generation = convert.to_generation(wire.GenerateRequest())
    assert generation == requests.GenerationRequest()
    assert (generation.max_tokens, generation.sampling) == (
        128,
        SamplingOptions(1.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0, (), None),
    )
    assert convert.to_prediction(wire.PredictRequest()) == requests.PredictionRequest((), 10, None, 5)
    assert convert.to_scoring(wire.ScoreRequest()) == requests.ScoringRequest((), 10)


def test_zero_is_not_unset() -> None:
    """An explicit 0 or empty string is taken at its word."""
    generation = convert.to_generation(wire.GenerateRequest(max_tokens=0))
    assert generation.max_tokens == 0
    sampling = convert.to_sampling(wire.Sampling(temperature=0, top_p=0, repetition_penalty=0, seed=0))
    assert (sampling.temperature, sampling.top_p, sampling.repetition_penalty, sampling.seed) == (0, 0, 0, 0)
    prediction = convert.to_prediction(wire.PredictRequest(k=0, num_words=0, word_prefix=""))
    assert (prediction.num_candidates, prediction.num_words, prediction.word_prefix) == (0, 0, "")
    assert convert.to_scoring(wire.ScoreRequest(g=0)).num_top == 0


def test_every_field_arrives() -> None:
    """All options of a generation reach the domain."""
    sampling = wire.Sampling(
        temperature=0.5,
        top_k=3,
        top_p=0.25,
        min_p=0.125,
        repetition_penalty=2,
        presence_penalty=-1,
        frequency_penalty=1.5,
        logit_bias={9: 1, 2: -1},
        seed=2**64 - 1,
    )
    message = wire.GenerateRequest(
        input=types_pb2.Input(text="é"),
        sampling=sampling,
        max_tokens=7,
        stop=["a"],
        stop_ids=[4],
        num_log_probabilities=3,
        n=5,
    )
    options = SamplingOptions(0.5, 3, 0.25, 0.125, 2.0, -1.0, 1.5, ((2, -1.0), (9, 1.0)), 2**64 - 1)
    assert convert.to_generation(message) == requests.GenerationRequest("é", options, 7, 5, ("a",), (4,), 3)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (types_pb2.Input(), ()),
        (types_pb2.Input(text=""), ""),
        (types_pb2.Input(text="a\0b"), "a\0b"),
        (types_pb2.Input(tokens=types_pb2.TokenIds()), ()),
        (types_pb2.Input(tokens=types_pb2.TokenIds(ids=[3, -1])), (3, -1)),
    ],
)
def test_input_is_text_ids_or_nothing(message: types_pb2.Input, expected: requests.Input) -> None:
    """Each form is kept as it came."""
    assert convert.to_input(message) == expected


@pytest.mark.parametrize("reason", [FinishReason.LENGTH, FinishReason.STOP, FinishReason.STOP_ID])
def test_an_end_is_told_whole(reason: FinishReason) -> None:
    """`finished` has reason, stop, counts and seed."""
    piece = GenerationPiece((), "rest", GenerationEnd(reason, "stop", STANDING, 3, 4, 2**64 - 1))
    response = convert.from_generation(piece, wire.GenerateRequest.CONTENT_BOTH, BYTES)
    end = response.finished
    assert wire.Finished.Reason.Name(end.reason) == f"REASON_{reason.name}"
    assert (response.text, end.stop, end.position, end.num_input_tokens) == ("rest", "stop", 2**40, 3)
    assert (end.num_generated_tokens, end.seed) == (4, 2**64 - 1)
    assert (end.durable_position, end.state, end.is_replay) == (2**39, b"sealed", True)


def test_every_answer_says_where_its_sequence_stands() -> None:
    """All three kinds of turn report position, durable position, sealed state and whether the answer is a replay."""
    end = GenerationEnd(FinishReason.LENGTH, "", STANDING, 1, 1, 1)
    generated = convert.from_generation(GenerationPiece((), "", end, 3), wire.GenerateRequest.CONTENT_BOTH, BYTES)
    assert generated.branch == 3
    predicted = convert.from_prediction(requests.Prediction((), (), STANDING), BYTES)
    scored = convert.from_scoring(requests.ScoringPiece((), requests.ScoreTotals(0, 0.0, 0, STANDING)))
    for one in (generated.finished, predicted, scored.totals):
        assert (one.position, one.durable_position, one.state, one.is_replay) == (2**40, 2**39, b"sealed", True)


def test_who_asks_is_told_whole() -> None:
    """Session, state, request id and expected position reach the domain; 0 is not unset."""
    message = wire.ScoreRequest(session_id="s", state=b"x", request_id="r", expected_position=0)
    assert convert.to_caller("ann", message, "s") == requests.Caller("ann", "s", b"x", "r", 0)
    assert convert.to_caller("ann", wire.ScoreRequest(), "") == requests.Caller("ann")


@pytest.mark.parametrize(
    ("message", "point"),
    [
        (sessions_pb2.Point(), Point()),
        (sessions_pb2.Point(position=0), Point(0)),
        (sessions_pb2.Point(checkpoint="c"), Point(mark="c")),
    ],
)
def test_a_point_is_a_position_a_checkpoint_or_now(message: sessions_pb2.Point, point: Point) -> None:
    """Position 0 is a position."""
    assert convert.to_point(message) == point


def test_tokens_carry_their_candidates_with_text() -> None:
    """A candidate that is no whole character by itself appears as U+FFFD."""
    token = Generated(ord("a"), -0.5, (Candidate(ord("a"), -0.5), Candidate(0xE6, -1.5)))
    piece = GenerationPiece((token, Generated(5)), "a")
    first, second = convert.from_generation(piece, wire.GenerateRequest.CONTENT_IDS, BYTES).tokens
    assert first.log_probability == -0.5
    assert [one.text for one in first.candidates] == ["a", "\N{REPLACEMENT CHARACTER}"]
    assert not second.HasField("log_probability")


def tokenized(ids: list[int]) -> tuple[wire.TokenizeResponse, list[int]]:
    """Returns the answer, and how many tokens it had after each slice."""
    response = wire.TokenizeResponse()
    return response, [len(response.tokens) for _ in convert.fill_tokens(response, ids, BYTES)]


def test_token_texts_join_to_the_text() -> None:
    """Tokenized text is cut at tokens, characters come with their last byte, and nothing is lost at the end."""
    for content in ("né日".encode(), "日".encode()[:2], "日".encode() * 3000):
        found = tokenized(list(content))[0].tokens
        assert [token.id for token in found] == list(content)
        assert "".join(token.text for token in found) == content.decode(errors="replace")
    assert not tokenized([])[0].tokens


def test_many_tokens_come_in_slices() -> None:
    """Other work runs between the slices."""
    sizes = tokenized([65] * 5000)[1]
    assert sizes == [2048, 4096, 5000]


def test_the_model_is_described_with_its_limits() -> None:
    """Manifest, provider and limits are all in the description; training facts are JSON."""
    plan = Plan()
    manifest = make_manifest(plan)
    bounds = Settings(
        max_input_tokens=5, penalty_window=6, max_input_bytes=7, max_answer_items=8, max_stop_ids=9, max_message_bytes=3
    )
    model = convert.from_manifest(manifest, "cpu", bounds)
    assert (model.name, model.digest, model.cell, model.tokenizer) == ("toy", manifest.digest, "rnn", "character")
    assert (model.vocabulary_size, model.num_parameters, model.state_bytes) == (16, 99, 24)
    residual = replace(manifest, block="residual")
    talking = replace(manifest, chat=ChatFormat("{{ messages }}"))
    assert [convert.from_manifest(one, "cpu", bounds).has_chat_template for one in (manifest, talking)] == [False, True]
    assert [convert.from_manifest(one, "cpu", bounds).block for one in (manifest, residual)] == ["plain", "residual"]
    limits = model.limits
    assert (limits.max_input_tokens, limits.penalty_window, limits.max_input_bytes) == (5, 6, 7)
    assert (limits.max_answer_items, limits.max_stop_ids, limits.max_message_bytes) == (8, 9, 3)
    assert limits.max_generated_tokens == Settings().max_generated_tokens
    assert json.loads(model.training_json) == {"corpus": "none"}


def test_an_infinite_perplexity_can_be_told() -> None:
    """Totals that no exponential can hold still become a message."""
    totals = requests.ScoreTotals(1, -5000.0, 0, STANDING)
    message = convert.from_scoring(requests.ScoringPiece((), totals))
    assert message.totals.perplexity == float("inf")
    nothing = convert.from_scoring(requests.ScoringPiece((), requests.ScoreTotals(0, 0.0, 0, STANDING)))
    assert nothing.totals.perplexity == 1


@pytest.mark.parametrize("num_tokens", [0, 1, 256, 257, 1000])
def test_a_long_piece_is_split_into_messages_of_bounded_size(num_tokens: int) -> None:
    """All tokens come in order, at most 256 a message; text and end come only in the last one."""
    end = requests.GenerationEnd(FinishReason.LENGTH, "", STANDING, 1, num_tokens, 3)
    piece = requests.GenerationPiece(tuple(Generated(n) for n in range(num_tokens)), "text", end)
    parts = list(convert.split_piece(piece))
    assert [token.id for part in parts for token in part.tokens] == list(range(num_tokens))
    assert all(len(part.tokens) <= 256 for part in parts)
    assert [(part.text, part.end) for part in parts] == [("", None)] * (len(parts) - 1) + [("text", end)]
    assert len(parts) == max(1, -(-num_tokens // 256))


@pytest.mark.parametrize(("num_candidates", "size"), [(0, 256), (16, 256), (17, 240), (64, 64)])
def test_many_candidates_make_shorter_messages(num_candidates: int, size: int) -> None:
    """The bound counts candidates too: 256 tokens with 64 each take 7 ms."""
    tokens = (Generated(1, -0.5, (Candidate(1, -0.5),) * num_candidates),) * 600
    parts = list(convert.split_piece(requests.GenerationPiece(tokens, "text", branch=2)))
    assert [len(part.tokens) for part in parts] == [size] * (600 // size) + [600 % size]
    assert {part.branch for part in parts} == {2}


@pytest.mark.parametrize("num_tokens", [0, 1, 2048, 2049, 5000])
def test_many_ratings_come_in_several_messages(num_tokens: int) -> None:
    """All of them come in order, and the totals with the last."""
    totals = requests.ScoreTotals(num_tokens, -1.0, 0, STANDING)
    rated = tuple(requests.ScoredToken(number, -0.5, 1, True, "a") for number in range(num_tokens))
    parts = list(convert.split_scoring(requests.ScoringPiece(rated, totals)))
    assert [token.id for part in parts for token in part.tokens] == list(range(num_tokens))
    assert all(len(part.tokens) <= 2048 for part in parts)
    assert [part.totals for part in parts] == [None] * (len(parts) - 1) + [totals]
    assert len(parts) == max(1, -(-num_tokens // 2048))


def test_times_and_expectations_that_are_not_set() -> None:
    """Unset times and expectations mean a day for a sealed state and no expectation; 0 is neither."""
    export = sessions_pb2.ExportSessionRequest
    assert convert.to_ttl(export()) == 86_400
    assert convert.to_ttl(export(ttl=duration_pb2.Duration(seconds=2, nanos=500_000_000))) == 2.5
    assert convert.to_ttl(export(ttl=duration_pb2.Duration())) == 0
    assert convert.to_expected(sessions_pb2.RewindSessionRequest()) is None
    assert convert.to_expected(sessions_pb2.RewindSessionRequest(expected_position=0)) == 0


def test_sampling_options_have_the_names_of_the_wire() -> None:
    """A field that has no option would be an internal error for every call that sets it."""
    assert {one.name for one in fields(SamplingOptions)} == set(wire.Sampling.DESCRIPTOR.fields_by_name)
