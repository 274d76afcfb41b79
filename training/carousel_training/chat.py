"""Checks that a chat format does its work, on a conversation of three messages, before a run or a bundle carries it."""

from carousel.bundle.chat import ChatFormat, Message, MessagesRefused

_SAMPLE = (Message("user", "Which day?"), Message("assistant", "It is Monday."), Message("user", "And tomorrow?"))


def check_chat(chat: ChatFormat) -> None:
    """Raises TypeError or ValueError, which says what is wrong, for a format that is broken or of no use."""
    chat.check()
    try:
        first = chat.render(_SAMPLE[:1])
        whole = chat.render(_SAMPLE)
        closed = chat.render(_SAMPLE, add_generation_prompt=False)
    except MessagesRefused as error:
        raise ValueError(f"a sample conversation is refused: {error}") from error
    for message in _SAMPLE:
        if message.content not in whole:
            raise ValueError(f"the chat template leaves {message.content!r} out of a sample conversation")
    if _SAMPLE[0].content not in first:
        raise ValueError(f"the chat template leaves {_SAMPLE[0].content!r} out where it is alone")
    after = closed[closed.index(_SAMPLE[1].content) + len(_SAMPLE[1].content) :]
    if chat.stops and not any(stop in after for stop in chat.stops):
        raise ValueError(f"no stop follows the assistant's turn in a sample conversation, but {after[:40]!r}")
