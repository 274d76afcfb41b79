"""Answers that are put together from bytes are the messages that protobuf makes of the same answers."""

import itertools
import math
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carousel.rpc import convert
from carousel.rpc.prediction_bytes import PredictionBytes
from carousel.sessions.requests import Prediction, Standing
from carousel.sessions.resident import Named
from carousel.turns import Candidate
from carousel.v1 import language_model_pb2 as wire

TEXTS = [
    "",
    "a",
    "\n",
    "\0",
    "\u00e9",
    "\u4e00",
    "\U0001f600",
    "\ufffd",
    "x" * 127,
    "x" * 128,
    "x" * 20_000,
    "\x15\0\0",
]
NUM_IDS = 70_000
MARK = struct.unpack("<f", b"\0\0\xc0\xbf")[0]  # the marks at which the pieces are cut


class Texts:
    """A tokenizer of many ids."""

    texts = [TEXTS[index % len(TEXTS)] for index in range(NUM_IDS)]


ENCODER = PredictionBytes(Texts())  # type: ignore[arg-type]
FLOATS = st.floats(width=32) | st.sampled_from([0.0, -0.0, math.inf, -math.inf, MARK, -1.0, 1e-45, 3.4e38])


def check(ids: list[int], log_probabilities: list[float], position: int = 1, durable_position: int = 0) -> None:
    candidates = tuple(map(Candidate, ids, log_probabilities))
    prediction = Prediction(candidates, (), Standing(position, durable_position))
    expected = convert.from_prediction(prediction, Texts())  # type: ignore[arg-type]
    content = ENCODER.encode(Named(ids, log_probabilities, position, durable_position))
    parsed = wire.PredictResponse.FromString(content)
    assert parsed.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


@given(
    st.lists(st.tuples(st.integers(0, NUM_IDS - 1), FLOATS), max_size=20), st.integers(0, 2**62), st.integers(0, 2**62)
)
def test_any_answer_is_what_protobuf_makes(pairs: list[tuple[int, float]], position: int, durable: int) -> None:
    check([one for one, _ in pairs], [number for _, number in pairs], position, durable)


@pytest.mark.parametrize("number", [0.0, -0.0, math.inf, -math.inf, math.nan, MARK])
def test_numbers_of_their_own_kind(number: float) -> None:
    check([0, 1, 2], [number, -1.0, number])


def test_every_id_and_text() -> None:
    """Ids of all lengths with all texts come through: no piece is cut in the wrong place."""
    edges = [0, 1, 20, 21, 22, 127, 128, 0x15, 0x1515, 2**14 - 1, 2**14, NUM_IDS - 1]
    ids = [*edges, *random.Random(1).sample(range(NUM_IDS), 500)]
    for few in itertools.batched(ids, 50) if hasattr(itertools, "batched") else [ids]:
        check(list(few), [MARK] * len(few))


def test_no_candidates_and_no_position() -> None:
    check([], [], 0, 0)


def test_pieces_are_made_once() -> None:
    encoder = PredictionBytes(Texts())  # type: ignore[arg-type]
    for _ in range(3):
        encoder.encode(Named([1, 2, 2], [-1.0, -2.0, -3.0], 1, 0))
    assert sorted(encoder._pieces) == [1, 2]
