"""Where the text of a response is made from what a caller says. Without a chat template there are no roles: the model
continues text."""

from collections.abc import Sequence

from carousel.bundle.chat import Message
from carousel.errors import InvalidRequest

_NO_TEMPLATE = "a response continues text and uses no chat template"


def text_of(messages: Sequence[Message], instructions: str = "") -> str:
    """Returns the texts one after the other, with nothing between. Raises InvalidRequest where a role would be lost."""
    if instructions:
        raise InvalidRequest("instructions", f"{_NO_TEMPLATE}; put them into the input")
    for message in messages:
        if message.role != "user":
            raise InvalidRequest("input", f"{_NO_TEMPLATE}: it takes messages of the role user, not {message.role}")
    return "".join([message.content for message in messages])
