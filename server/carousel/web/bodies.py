"""The JSON bodies of requests. Null means the default. What is not known is refused."""

import json
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from carousel.errors import InvalidRequest

_MAX_KEY = 100  # of an unknown key, in an error
_MAX_PROBLEMS = 1000  # to look at

Count = Annotated[int, Field(ge=0, lt=2**31)]
Counts = Annotated[list[Count], Field(fail_fast=True)]  # a body of a megabyte would have a million errors
Texts = Annotated[list[str], Field(fail_fast=True)]
Some = TypeVar("Some", bound=BaseModel)


class Body(BaseModel):
    """What all bodies have."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_nulls_out(cls, values: Any) -> Any:
        return (
            {key: value for key, value in values.items() if value is not None} if isinstance(values, dict) else values
        )


def parse(body: type[Some], content: bytes) -> Some:
    """Raises InvalidRequest, which names the first wrong field."""
    try:
        text = content.decode("utf-8-sig")
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("body", "is not JSON") from error
    if "\\u" in text and isinstance(values, dict):  # only escapes make surrogates
        _check_texts(values)
    try:
        return body.model_validate(values)
    except ValidationError as error:
        if error.error_count() > _MAX_PROBLEMS:
            raise InvalidRequest("body", f"has more than {_MAX_PROBLEMS} wrong values") from None
        problem = _first_problem(error)
        place = problem["loc"]
        field = _shorten(str(place[0])) if place else "body"
        is_unknown = problem["type"] == "extra_forbidden"
        text = "is not a parameter of this call" if is_unknown else _say(problem)
        if len(place) > 1 and isinstance(place[1], int):  # of a list of objects
            text = f"{_shorten('.'.join(map(str, place[1:])))}: {text}"
        raise InvalidRequest(field, text) from error


def _first_problem(error: ValidationError) -> ErrorDetails:
    """Returns the deepest problem of the first wrong field: of several forms, the value has the one that fits best. A
    value that is only too long has the right form."""
    problems = error.errors(include_url=False, include_input=False)
    of_field = [one for one in problems if one["loc"][:1] == problems[0]["loc"][:1]]
    return max(of_field, key=lambda one: (len(one["loc"]), one["type"] == "too_long"))


def _say(problem: ErrorDetails) -> str:
    text = problem["msg"].removeprefix("Value error, ").removesuffix(", not more")
    return text.replace(" items after validation", " items")


def _check_texts(values: dict[str, Any]) -> None:
    """Raises InvalidRequest for half of a surrogate pair: no text of ours has it."""
    for key, value in values.items():
        try:
            json.dumps({key: value}, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            field = _shorten(key.encode(errors="replace").decode())
            raise InvalidRequest(field, "has half of a surrogate pair") from error


def _shorten(key: str) -> str:
    return key if len(key) <= _MAX_KEY else f"{key[:_MAX_KEY]}..."
