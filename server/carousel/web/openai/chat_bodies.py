"""The body of POST /v1/chat/completions, in OpenAI's names. Source: OpenAI's API reference for chat completions."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from carousel.bundle.chat import Message
from carousel.errors import InvalidRequest
from carousel.sessions import checks
from carousel.web.bodies import Body, Count, Texts
from carousel.web.openai.bodies import GenerationBody

MAX_MESSAGES = 1024  # each costs time in the template
DEFAULT_MAX_TOKENS = 1024
_TEXT = {"type": "text"}
_OTHER_THAN_TEXT = ("tools", "tool_choice", "functions", "function_call", "audio")


class ChatMessage(Body):
    """One message. Its parts, if it has some, are one text."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str

    @field_validator("content", mode="before")
    @classmethod
    def _join_parts(cls, given: Any) -> Any:
        if not isinstance(given, list):
            return given
        for one in given:
            kind = one.get("type") if isinstance(one, dict) else None
            if kind != "text" or set(one) != {"type", "text"} or not isinstance(one["text"], str):
                raise ValueError("a part must be a text, with type and text alone")
        return "".join(one["text"] for one in given)


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool = False
    top_logprobs: Count = 0
    response_format: dict[str, Any] = Field(default_factory=lambda: _TEXT)
    modalities: Texts = Field(default_factory=lambda: ["text"])
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    audio: Any = None
    safety_identifier: str = ""  # read and left alone, as `user` is, whose heirs these are
    prompt_cache_key: str = ""
    session_id: str = ""

    @property
    def conversation(self) -> list[Message]:
        return [
            Message("system" if message.role == "developer" else message.role, message.content)
            for message in self.messages
        ]

    @property
    def num_log_probabilities(self) -> int:
        return max(1, self.top_logprobs) if self.logprobs else 0

    def most_tokens(self, limits: checks.Limits) -> int:
        """Returns the bound on an answer's tokens: the asked one, or what the limits leave of the default."""
        asked = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        if asked is not None:
            return asked
        items = limits.max_answer_items // (self.n * (1 + self.num_log_probabilities))
        return min(DEFAULT_MAX_TOKENS, limits.max_generated_tokens, items)

    def check(self) -> None:
        super().check()
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            raise InvalidRequest("max_completion_tokens", "is not max_tokens; give one of the two")
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs", "is for logprobs=true")
        if self.top_logprobs > checks.MAX_LOG_PROBABILITIES:
            text = f"must be from 0 to {checks.MAX_LOG_PROBABILITIES}, not {self.top_logprobs}"
            raise InvalidRequest("top_logprobs", text)
        if self.response_format != _TEXT:
            raise InvalidRequest("response_format", "is not supported, except for text")
        if self.modalities != ["text"]:
            raise InvalidRequest("modalities", "is not supported, except for text")
        for name in _OTHER_THAN_TEXT:
            if getattr(self, name) is not None:
                raise InvalidRequest(name, "is not supported: the model writes text alone")
        if self.session_id:
            text = "is not for messages, which repeat the whole conversation; use /v1/responses or /v1/completions"
            raise InvalidRequest("session_id", text)
