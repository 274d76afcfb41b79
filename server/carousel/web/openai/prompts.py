"""Where the text that a model reads is made from what a caller says. A model without a chat template knows no roles: it
continues text."""

from collections.abc import Sequence

from carousel.errors import InvalidRequest
from carousel.records import record

_NO_TEMPLATE = "this model continues text and has no chat template"


@record(frozen=True, slots=True)
class Message:
    """What one role says."""

    role: str
    text: str


def text_of(messages: Sequence[Message], instructions: str = "") -> str:
    """Returns the texts one after the other, with nothing between. Raises InvalidRequest where a role would be lost."""
    if instructions:
        raise InvalidRequest("instructions", f"{_NO_TEMPLATE}; put them into the input")
    for message in messages:
        if message.role != "user":
            raise InvalidRequest("input", f"{_NO_TEMPLATE}: it takes messages of the role user, not {message.role}")
    return "".join([message.text for message in messages])
