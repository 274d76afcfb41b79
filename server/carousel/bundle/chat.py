"""How a conversation becomes text: a Jinja template of the bundle, and the strings that end an assistant's turn.

The template is its maker's, and trusted as the graphs are. It runs in a sandbox all the same, and its text is bounded
in size and, between two pieces, in time. Messages are their sender's: they are values, never parts of the template.

Source of the rules: the chat templates of Hugging Face's transformers (`messages`, `add_generation_prompt`, trimmed
blocks, `raise_exception`, loop controls, plain `tojson`).
"""

import functools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from carousel.records import record

if TYPE_CHECKING:
    import jinja2

MAX_TEMPLATE_BYTES = 65_536
MAX_STOPS = 8
MAX_STOP_BYTES = 256
MAX_TEXT_BYTES = 2**20
RENDER_SECONDS = 2.0


class MessagesRefused(ValueError):
    """The template does not take these messages, or makes too much of them."""


@record(frozen=True, slots=True)
class Message:
    role: str  # "system", "user" or "assistant"
    content: str


@dataclass(frozen=True)
class ChatFormat:
    """The manifest's chat part."""

    template: str
    stops: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {"template": self.template, "stops": list(self.stops)}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> "ChatFormat":
        """Raises TypeError or ValueError for a bad, missing or unknown value, or a template that is not one."""
        if not isinstance(facts, dict):
            raise TypeError(f"chat is {facts!r}")
        stops = facts.get("stops", [])
        if not isinstance(stops, list):
            raise TypeError(f"chat.stops is {stops!r}")
        made = cls(**{**facts, "stops": tuple(stops)})
        made.check()
        return made

    def check(self) -> None:
        """Compiles the template. Raises TypeError or ValueError."""
        for text in (self.template, *self.stops):
            if not isinstance(text, str):
                raise TypeError(f"a text of chat is {text!r}")
        if not 1 <= len(self.template.encode()) <= MAX_TEMPLATE_BYTES:
            raise ValueError(f"the chat template must have from 1 to {MAX_TEMPLATE_BYTES} bytes")
        if len(self.stops) > MAX_STOPS:
            raise ValueError(f"at most {MAX_STOPS} stops of a chat, not {len(self.stops)}")
        for stop in self.stops:
            if not 1 <= len(stop.encode()) <= MAX_STOP_BYTES:
                raise ValueError(f"a stop of a chat must have from 1 to {MAX_STOP_BYTES} bytes")
        _ = self._compiled

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True, max_bytes: int = MAX_TEXT_BYTES
    ) -> str:
        """Returns the conversation as text. With `add_generation_prompt` it ends where the assistant's next turn
        begins. Raises MessagesRefused."""
        import jinja2

        given = [{"role": message.role, "content": message.content} for message in messages]
        pieces = self._compiled.generate(messages=given, add_generation_prompt=add_generation_prompt)
        try:
            return "".join(_bound(pieces, max_bytes))
        except MessagesRefused:
            raise
        except jinja2.TemplateError as error:
            raise MessagesRefused(f"the chat template does not take them: {error}") from error
        except Exception as error:  # a template can raise anything, and its text may hold a message
            raise MessagesRefused(f"the chat template does not take them ({type(error).__name__})") from error

    @functools.cached_property
    def _compiled(self) -> "jinja2.Template":
        """Raises ValueError with the line that is wrong."""
        import jinja2  # here, so that a server without a template starts without it

        try:
            return _environment().from_string(self.template)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"line {error.lineno} of the chat template: {error.message}") from error
        except (jinja2.TemplateError, SyntaxError, RecursionError, MemoryError) as error:
            raise ValueError(f"the chat template cannot be compiled: {error}") from error


def _environment() -> "jinja2.Environment":
    import jinja2
    import jinja2.sandbox

    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, extensions=["jinja2.ext.loopcontrols"]
    )
    made.globals["raise_exception"] = _raise
    made.filters["tojson"] = _to_json  # Jinja's own is for HTML
    return made


def _bound(pieces: Iterator[str], max_bytes: int) -> Iterator[str]:
    """Yields the pieces. Raises MessagesRefused where they become too long or take too long."""
    num_bytes, until = 0, time.monotonic() + RENDER_SECONDS
    for piece in pieces:
        num_bytes += len(piece.encode())
        if num_bytes > max_bytes:
            raise MessagesRefused(f"the chat template makes more than {max_bytes} bytes of them")
        if time.monotonic() > until:
            raise MessagesRefused(f"the chat template takes more than {RENDER_SECONDS:g} seconds for them")
        yield piece


def _raise(message: str) -> NoReturn:
    raise MessagesRefused(str(message))


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
