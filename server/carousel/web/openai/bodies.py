"""The bodies of requests, in OpenAI's names. Null means the default. What is not known is refused.

Source: OpenAI's API reference for completions; `top_k`, `min_p`, `repetition_penalty` and `stop_token_ids` as vLLM has
them; `session_id` and `expected_position` are our own.
"""

import json
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from carousel.errors import InvalidRequest
from carousel.sessions.requests import Input
from carousel.turns import SamplingOptions

MAX_PROMPTS = 128
_PLAIN = SamplingOptions()

Ids = Annotated[list[Annotated[int, Field(strict=True)]], Field(min_length=1)]
Prompt = str | Ids | list[str] | list[Ids]
Body = TypeVar("Body", bound=BaseModel)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_nulls_out(cls, values: Any) -> Any:
        return (
            {key: value for key, value in values.items() if value is not None} if isinstance(values, dict) else values
        )


class StreamOptions(_Body):
    include_usage: bool = False
    include_obfuscation: bool = False  # of no use here


class CompletionBody(_Body):
    """POST /v1/completions."""

    model: str = ""
    prompt: Prompt = ""
    max_tokens: Annotated[int, Field(strict=True)] = 16
    temperature: float = 1.0
    top_p: float = 1.0
    n: Annotated[int, Field(strict=True)] = 1
    best_of: int | None = None
    stop: str | list[str] = ()  # type: ignore[assignment]
    seed: Annotated[int, Field(strict=True)] | None = None
    logit_bias: dict[int, float] = Field(default_factory=dict)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: Annotated[int, Field(strict=True)] | None = None
    echo: bool = False
    suffix: str = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str = ""  # read and left alone
    top_k: int = _PLAIN.top_k
    min_p: float = _PLAIN.min_p
    repetition_penalty: float = _PLAIN.repetition_penalty
    stop_token_ids: Ids | list[int] = Field(default_factory=list)
    session_id: str = ""
    expected_position: Annotated[int, Field(strict=True)] | None = None

    @property
    def prompts(self) -> list[Input]:
        """Returns the prompts, one for each text or list of ids."""
        given: Any = self.prompt
        if isinstance(given, str) or (given and isinstance(given[0], int)):
            given = [given]
        return [one if isinstance(one, str) else tuple(one) for one in given]

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def check(self) -> None:
        """Raises InvalidRequest for what no other layer knows."""
        if self.suffix:
            raise InvalidRequest("suffix", "is not supported: the model reads in one direction")
        if self.best_of is not None and self.best_of not in (1, self.n):
            raise InvalidRequest("best_of", "is not supported; ask for n continuations and their logprobs")
        if self.best_of is not None and self.best_of == self.n > 1:
            raise InvalidRequest("best_of", "is not supported; n alone gives as many")
        if not 1 <= len(self.prompts) <= MAX_PROMPTS:
            raise InvalidRequest("prompt", f"from 1 to {MAX_PROMPTS} prompts, not {len(self.prompts)}")
        if self.session_id and len(self.prompts) > 1:
            raise InvalidRequest("prompt", "a session takes one prompt at a time")
        if self.session_id and self.echo and self.logprobs is not None:
            raise InvalidRequest("echo", "with logprobs it is for prompts without a session")
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options", "is for stream=true")


class TokenizeBody(_Body):
    """POST /tokenize, as lm-evaluation-harness asks. No token is special here."""

    prompt: str
    add_special_tokens: bool = False
    model: str = ""


class DetokenizeBody(_Body):
    """POST /detokenize."""

    tokens: list[Annotated[int, Field(strict=True)]]
    model: str = ""


def parse(body: type[Body], content: bytes) -> Body:
    """Raises InvalidRequest, which names the first wrong field."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("body", "is not JSON") from error
    try:
        return body.model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        field = str(problem["loc"][0]) if problem["loc"] else "body"
        text = "is not a parameter of this call" if problem["type"] == "extra_forbidden" else problem["msg"]
        raise InvalidRequest(field, text) from error
