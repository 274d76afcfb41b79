"""The body of POST /v1/responses. Null means the default. What does nothing here is accepted where that is harmless;
everything else is refused by name.

Source: `openai.types.responses` of OpenAI's client 3.57. `top_k`, `min_p`, `repetition_penalty`, `seed`, `stop` and
`stop_token_ids` are those of completions; `expected_position` is our own.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from carousel.bundle.chat import Message
from carousel.errors import InvalidRequest
from carousel.sessions.requests import GenerationRequest
from carousel.turns import SamplingOptions
from carousel.web.bodies import Body, Count, Counts, Texts
from carousel.web.openai.prompts import text_of

_PLAIN = SamplingOptions()
_MAX_ITEMS = 4096
_UNSUPPORTED: Mapping[str, str] = {
    "background": "is not supported: answers are made while their caller waits",
    "tools": "are not supported: the model writes text alone",
    "include": "is not supported: an answer is its text",
    "top_logprobs": "is not supported; /v1/completions has log-probabilities",
}

Key = Annotated[str, Field(max_length=64)]
Value = Annotated[str, Field(max_length=512)]
Name = Annotated[str, Field(max_length=512)]  # also of what only OpenAI knows


class TextPart(Body):
    """A part of a message. `text` is how LangChain spells an `input_text`."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[Any] = Field(default_factory=list)  # of what a model wrote
    logprobs: list[Any] = Field(default_factory=list)


class MessageItem(Body):
    """A message, as callers write it or as an answer had it."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | Annotated[list[TextPart], Field(max_length=_MAX_ITEMS, fail_fast=True)]
    type: Literal["message"] = "message"
    id: str = ""
    status: Literal["in_progress", "completed", "incomplete"] = "completed"
    phase: Literal["commentary", "final_answer"] | None = None

    @property
    def message(self) -> Message:
        content = self.content
        text = content if isinstance(content, str) else "".join([part.text for part in content])
        return Message(self.role, text)


class ConversationName(Body):
    id: Name


class TextFormat(Body):
    type: Literal["text"] = "text"


class TextOptions(Body):
    format: TextFormat = TextFormat()
    verbosity: Literal["medium"] = "medium"


class ResponseStreamOptions(Body):
    include_obfuscation: bool = False  # of no use here


class ResponseBody(Body):
    """POST /v1/responses."""

    model: str = ""
    input: str | Annotated[list[MessageItem], Field(max_length=_MAX_ITEMS, fail_fast=True)] = ""
    instructions: str = ""
    max_output_tokens: Annotated[Count, Field(ge=1)] = GenerationRequest().max_tokens
    temperature: float = _PLAIN.temperature
    top_p: float = _PLAIN.top_p
    stream: bool = False
    stream_options: ResponseStreamOptions | None = None
    store: bool = True
    previous_response_id: str = ""  # of any length: what is none is not found
    conversation: Name | ConversationName = ""
    metadata: Annotated[dict[Key, Value], Field(max_length=16)] = Field(default_factory=dict)
    top_k: Count = _PLAIN.top_k
    min_p: float = _PLAIN.min_p
    repetition_penalty: float = _PLAIN.repetition_penalty
    seed: Annotated[int, Field(ge=0, lt=2**64)] | None = None
    stop: str | Texts = ()  # type: ignore[assignment]
    stop_token_ids: Counts = Field(default_factory=list)
    expected_position: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    text: TextOptions = TextOptions()
    truncation: Literal["auto", "disabled"] = "disabled"  # there is no window to truncate to
    service_tier: Literal["auto", "default"] = "auto"
    parallel_tool_calls: bool = True  # there are no tools
    tool_choice: Literal["auto", "none"] = "auto"
    tools: list[Any] = Field(default_factory=list)
    include: list[Any] = Field(default_factory=list)
    top_logprobs: Count = 0
    background: bool = False
    user: Name = ""
    safety_identifier: Name = ""
    prompt_cache_key: Name = ""
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None

    @property
    def session_id(self) -> str:
        """The session that is the conversation, if one is named."""
        return self.conversation if isinstance(self.conversation, str) else self.conversation.id

    def check(self, session_id: str) -> None:
        """Raises InvalidRequest for what no other layer knows. `session_id` is the conversation, wherever it is
        named."""
        for name, text in _UNSUPPORTED.items():
            if getattr(self, name):
                raise InvalidRequest(name, text)
        if self.previous_response_id and session_id:
            raise InvalidRequest("previous_response_id", "cannot be given together with a conversation")
        if session_id and not self.store:
            raise InvalidRequest("store", "is true for a conversation: it is kept")
        if self.expected_position is not None and not session_id:
            raise InvalidRequest("expected_position", "needs a conversation")
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options", "is for stream=true")

    def generation(self) -> GenerationRequest:
        """Returns the turn that is asked for. Raises InvalidRequest for roles that the model does not know."""
        sampling = SamplingOptions(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
        )
        items = self.input if isinstance(self.input, list) else [MessageItem(role="user", content=self.input)]
        text = text_of([item.message for item in items], self.instructions)
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        return GenerationRequest(
            text, sampling, self.max_output_tokens, stop=stops, stop_ids=tuple(self.stop_token_ids)
        )
