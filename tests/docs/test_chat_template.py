"""The chat template of docs/training.md makes the text that stands there."""

import re
import tomllib
from pathlib import Path

from carousel.bundle.chat import ChatFormat, Message
from carousel_training.chat import check_chat

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()


def block(kind: str) -> str:
    [found] = re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def test_the_template_makes_the_text() -> None:
    """With the answers that a model gives, which begin with a space, and up to where it goes on."""
    text = block("text")
    messages = [Message(role.lower(), said) for role, said in re.findall(r"^(\w+):( .*)$", text, re.MULTILINE)]
    assert len(messages) == 4
    chat = ChatFormat(block("jinja"), tuple(tomllib.loads(block("toml"))["chat"]["stops"]))
    check_chat(chat)
    assert chat.render(messages, add_generation_prompt=False) == text
    assert chat.render(messages) == f"{text}Assistant:"
