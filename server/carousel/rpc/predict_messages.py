"""Reads the messages of Predict and PredictMany for `sessions`, which does not know their contents."""

from carousel.bundle.tokenizer import Tokenizer
from carousel.rpc import convert, frames, lengths
from carousel.rpc.errors import to_status
from carousel.rpc.prediction_bytes import PredictionBytes
from carousel.sessions.checks import MAX_CANDIDATES, Limits
from carousel.sessions.requests import Caller, Prediction, PredictionRequest
from carousel.sessions.resident import Named
from carousel.v1 import language_model_pb2 as wire

_ANSWER_BYTES, _CANDIDATE_BYTES = 32, 20  # sizes in an answer, about
_DEFAULT = PredictionRequest()


class PredictMessages:
    """Reads the messages of Predict."""

    to_plain = staticmethod(convert.to_plain)

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def to_request(self, message: wire.PredictRequest, owner: str) -> tuple[PredictionRequest, Caller]:
        lengths.check_input(message.input, self._limits)
        return convert.to_prediction(message), convert.to_caller(owner, message, "")

    @staticmethod
    def num_words(message: wire.PredictRequest) -> int:
        if not message.HasField("word_prefix"):
            return 0
        return int(message.num_words) if message.HasField("num_words") else _DEFAULT.num_words


class ManyMessages(PredictMessages):
    """Reads the messages of PredictMany and writes their answers."""

    read_item = staticmethod(frames.read_item)

    def __init__(self, encoder: PredictionBytes, tokenizer: Tokenizer, limits: Limits) -> None:
        super().__init__(limits)
        self._encoder = encoder
        self._tokenizer = tokenizer

    @staticmethod
    def num_answer_bytes(message: wire.PredictRequest) -> int:
        num = message.k or _DEFAULT.num_candidates
        return _ANSWER_BYTES + _CANDIDATE_BYTES * num if 0 < num <= MAX_CANDIDATES else _ANSWER_BYTES

    def write(self, tag: int, outcome: Named | Prediction) -> bytes:
        if isinstance(outcome, Named):
            return frames.make_item(tag, frames.RESPONSE, self._encoder.encode(outcome))
        response = convert.from_prediction(outcome, self._tokenizer)
        return frames.make_item(tag, frames.RESPONSE, response.SerializeToString())

    @staticmethod
    def write_refusal(tag: int, error: Exception) -> bytes:
        return frames.make_item(tag, frames.STATUS, to_status(error).SerializeToString())
