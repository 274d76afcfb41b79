"""How a transport reads the messages of a sequence. Only the transport knows what is inside a message."""

from typing import Any, Protocol, TypeAlias

from carousel.sessions.requests import Caller, Prediction, PredictionRequest
from carousel.sessions.resident import Named, Plain

Message: TypeAlias = Any  # one request of a sequence; it has `model` and `session_id`


class Reader(Protocol):
    """Reads the contents of messages."""

    def to_plain(self, message: Message) -> Plain | None:
        """Returns the plain turn, or None if the message asks for more than the candidates after one token."""
        ...

    def to_request(self, message: Message, owner: str) -> tuple[PredictionRequest, Caller]:
        """Returns the request and its caller, without the session. Raises InvalidRequest if the message is too long."""
        ...

    def num_words(self, message: Message) -> int:
        """Returns the number of words that the message asks for."""
        ...


class Item(Protocol):
    """A request of the sequence `tag`, or its end if `close` is set."""

    @property
    def tag(self) -> int: ...
    @property
    def close(self) -> bool: ...
    @property
    def request(self) -> Message: ...


class Format(Reader, Protocol):
    """The format in which many sequences share one stream of bytes."""

    def read_item(self, content: bytes, at: int) -> tuple[Item | None, int]:
        """Returns the item at `at`, or None for an unknown field, and where the next begins. Raises MessageInvalid."""
        ...

    def num_answer_bytes(self, message: Message) -> int:
        """Returns the answer's size, about."""
        ...

    def write(self, tag: int, outcome: Named | Prediction) -> bytes: ...

    def write_refusal(self, tag: int, error: Exception) -> bytes: ...
