"""What a transport says of the messages of a sequence, which are its own: nobody else looks into one."""

from typing import Any, Protocol, TypeAlias

from carousel.sessions.requests import Caller, Prediction, PredictionRequest
from carousel.sessions.resident import Named, Plain

Message: TypeAlias = Any  # one request of a sequence; it says `model` and `session_id`


class Reader(Protocol):
    """What is in a message."""

    def to_plain(self, message: Message) -> Plain | None:
        """None where it asks for more than one token's candidates."""
        ...

    def to_request(self, message: Message, owner: str) -> tuple[PredictionRequest, Caller]:
        """The caller as the message has it, the session apart. Raises InvalidRequest for one that is too long."""
        ...

    def num_words(self, message: Message) -> int:
        """That it asks for."""
        ...


class Item(Protocol):
    """A request of the sequence `tag`, or, with `close`, its end."""

    @property
    def tag(self) -> int: ...
    @property
    def close(self) -> bool: ...
    @property
    def request(self) -> Message: ...


class Format(Reader, Protocol):
    """How many sequences share a stream of bytes."""

    def read_item(self, content: bytes, at: int) -> tuple[Item | None, int]:
        """The item that begins there, None for what is none, and where the next one begins. Raises MessageInvalid."""
        ...

    def num_answer_bytes(self, message: Message) -> int:
        """That its answer will have, about."""
        ...

    def write(self, tag: int, outcome: Named | Prediction) -> bytes: ...

    def write_refusal(self, tag: int, message: Message, error: Exception) -> bytes: ...
