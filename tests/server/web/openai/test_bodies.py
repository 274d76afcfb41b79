"""A body that is wrong in a hundred thousand places is refused for the first of them: the others are not looked at."""

import json
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from carousel.errors import InvalidRequest
from carousel.web.bodies import parse
from carousel.web.openai.bodies import CompletionBody, DetokenizeBody
from carousel.web.openai.chat_bodies import ChatBody
from carousel.web.openai.response_bodies import ResponseBody

MANY = 2000
PART = {"type": "text"}


@pytest.mark.parametrize(
    ("body", "name", "value"),
    [
        (CompletionBody, "prompt", [{}] * MANY),
        (CompletionBody, "prompt", [[{}] * MANY]),
        (CompletionBody, "prompt", [[]] * MANY),
        (CompletionBody, "prompt", ["a", *[1] * MANY]),
        (CompletionBody, "stop", [1] * MANY),
        (CompletionBody, "stop_token_ids", ["a"] * MANY),
        (DetokenizeBody, "tokens", ["a"] * MANY),
        (ChatBody, "messages", [{}] * 1000),
        (ResponseBody, "input", [{}] * MANY),
        (ResponseBody, "input", [{"role": "user", "content": [PART] * MANY}]),
        (ResponseBody, "input", [{"role": "user", "content": [PART]}] * MANY),
        (ResponseBody, "stop", [1] * MANY),
        (ResponseBody, "stop_token_ids", ["a"] * MANY),
    ],
)
def test_lists_end_at_the_first_wrong_item(body: type[BaseModel], name: str, value: Any) -> None:
    """A few forms may be tried; none is tried to its end."""
    with pytest.raises(ValidationError) as told:
        body.model_validate({name: value})
    assert told.value.error_count() < 20
    with pytest.raises(InvalidRequest) as refused:
        parse(body, json.dumps({name: value}).encode())
    assert refused.value.field == name


@pytest.mark.parametrize("more", [{"metadata": {str(n): 1 for n in range(MANY)}}, {str(n): 1 for n in range(MANY)}])
def test_too_many_wrong_names_are_refused_together(more: dict[str, Any]) -> None:
    """They are counted, and not described."""
    with pytest.raises(InvalidRequest) as told:
        parse(ResponseBody, json.dumps(more).encode())
    assert told.value.field == "body"


@pytest.mark.parametrize(
    "given",
    [[{"role": "user", "content": "a"}] * 4097, [{"role": "user", "content": [PART | {"text": "a"}] * 4097}]],
    ids=["messages", "parts"],
)
def test_a_list_that_is_too_long_is_told_its_bound(given: list[Any]) -> None:
    """It could also have been a text; it is not told to be one."""
    with pytest.raises(InvalidRequest, match="input: List should have at most 4096 items, not 4097"):
        parse(ResponseBody, json.dumps({"input": given}).encode())


def test_a_dictionary_that_is_too_large_is_told_its_bound() -> None:
    with pytest.raises(InvalidRequest, match="metadata: Dictionary should have at most 16 items$"):
        parse(ResponseBody, json.dumps({"metadata": {str(n): "a" for n in range(17)}}).encode())


def test_modalities_end_at_the_first_wrong_item() -> None:
    with pytest.raises(ValidationError) as told:
        ChatBody.model_validate({"messages": [{"role": "user", "content": "a"}], "modalities": [1] * MANY})
    assert told.value.error_count() == 1
