"""One message of a sequence, of a Predict stream or of a tag of PredictMany, on its shortest way."""

from carousel.rpc import convert, lengths
from carousel.sessions.checks import MAX_WORDS
from carousel.sessions.conversation import Conversation
from carousel.sessions.requests import PredictionRequest
from carousel.sessions.resident import Named
from carousel.sessions.service import Sessions
from carousel.v1 import language_model_pb2 as wire

# In the gate's unit: of a search for words, beside its turn.
_SEARCH_COST, _WORD_COST = 20.0, 2.0
_TOKENS_PER_COST = 800  # of the vocabulary, of which a search sorts the tokens that fit
_DEFAULT = PredictionRequest()


class Predictions:
    """For one owner's call."""

    def __init__(self, sessions: Sessions, limits: wire.Limits, owner: str) -> None:
        self._sessions = sessions
        self._limits = limits
        self._owner = owner

    def converse(self) -> Conversation:
        """A new sequence. To be closed."""
        return self._sessions.converse(self._owner)

    def begin(self, talk: Conversation, request: wire.PredictRequest) -> None:
        """What the first message says of its sequence. Raises ModelNotFound, SessionNotFound."""
        self._sessions.check_model(request.model)
        talk.name(request.session_id)

    def search_cost(self, request: wire.PredictRequest) -> float:
        """Of the words that it asks for, about: it takes one step or dozens."""
        num_words = request.num_words if request.HasField("num_words") else _DEFAULT.num_words
        if not request.HasField("word_prefix") or not 0 < num_words <= MAX_WORDS:
            return 0.0
        return _SEARCH_COST + _WORD_COST * num_words + self._sessions.manifest.vocabulary_size / _TOKENS_PER_COST

    async def answer(self, talk: Conversation, request: wire.PredictRequest) -> Named | wire.PredictResponse:
        plain = convert.to_plain(request)
        if plain is not None and (named := await talk.answer_plain(plain)) is not None:
            return named
        lengths.check_input(request.input, self._limits)
        prediction = await talk.answer(convert.to_prediction(request), convert.to_caller(self._owner, request, ""))
        return convert.from_prediction(prediction, self._sessions.tokenizer)
