"""Explains what is wrong with a setting, in a sentence that names it: pydantic's findings in plain words."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_SENTENCES: dict[str, Callable[[Mapping[str, Any]], str]] = {  # by pydantic's error type, from its context
    "greater_than": lambda facts: f"must be above {_number(facts['gt'])}",
    "greater_than_equal": lambda facts: f"must be at least {_number(facts['ge'])}",
    "less_than": lambda facts: f"must be below {_number(facts['lt'])}",
    "less_than_equal": lambda facts: f"must be at most {_number(facts['le'])}",
    "int_parsing": lambda facts: "must be a whole number",
    "int_type": lambda facts: "must be a whole number",
    "int_from_float": lambda facts: "must be a whole number",
    "int_parsing_size": lambda facts: "must be a whole number with fewer digits",
    "float_parsing": lambda facts: "must be a number",
    "float_type": lambda facts: "must be a number",
    "finite_number": lambda facts: "must be finite",
    "bool_parsing": lambda facts: "must be true or false",
    "bool_type": lambda facts: "must be true or false",
    "literal_error": lambda facts: f"must be {facts['expected'].replace(chr(39), '')}",
}
_MAX_SHOWN = 40  # characters of a value


def explain_problem(problem: Mapping[str, Any], names: Iterable[str], lister: str = "carousel settings") -> str:
    """Returns one of `ValidationError.errors()` as a sentence; `names` are the known settings, `lister` lists them.

    A value appears only where a number or one of a few words is expected: other values may be secrets.
    """
    name = ".".join(str(part) for part in problem["loc"] if isinstance(part, str))
    if problem["type"] == "extra_forbidden":
        return f"unknown setting {name}{_suggest(name, names, lister)}"
    sentence = _SENTENCES.get(problem["type"])
    if sentence is not None:
        return f"{name}: {sentence(problem.get('ctx', {}))}, not {_shorten(str(problem['input']))!r}"
    text = problem["msg"].removeprefix("Value error, ")
    return f"{name}: {text}" if name else text


def _suggest(name: str, names: Iterable[str], lister: str) -> str:
    close = difflib.get_close_matches(name.lower().replace("-", "_"), list(names), n=1)
    return f"; did you mean {close[0]}?" if close else f" (`{lister}` lists them)"


def _number(value: float) -> str:
    """Returns digits as a setting takes them: no exponent, no zero fraction."""
    return str(int(value)) if value == int(value) else str(value)


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
