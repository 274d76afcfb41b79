"""The bodies of requests, in OpenAI's names.

Source: OpenAI's API reference for completions; `top_k`, `min_p`, `repetition_penalty` and `stop_token_ids` as vLLM has
them; `session_id` and `expected_position` are our own.
"""

from typing import Annotated, Any

from pydantic import Field

from carousel.errors import InvalidRequest
from carousel.sessions import checks
from carousel.sessions.requests import Input
from carousel.turns import SamplingOptions
from carousel.web.bodies import Body, Count

MAX_PROMPTS = 128
_PLAIN = SamplingOptions()

Ids = Annotated[list[Count], Field(min_length=1)]
IdKey = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")]  # one spelling for each id
Prompt = str | Ids | list[str] | list[Ids]


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: bool = False  # of no use here


class GenerationBody(Body):
    """What the bodies of completions and of chats have alike."""

    model: str = ""
    temperature: float = 1.0
    top_p: float = 1.0
    n: Count = 1
    stop: str | list[str] = ()  # type: ignore[assignment]
    seed: Annotated[int, Field(ge=0, lt=2**64)] | None = None
    logit_bias: dict[IdKey, float] = Field(default_factory=dict)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str = ""  # read and left alone
    top_k: Count = _PLAIN.top_k
    min_p: float = _PLAIN.min_p
    repetition_penalty: float = _PLAIN.repetition_penalty
    stop_token_ids: list[Count] = Field(default_factory=list)

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def has_usage_event(self) -> bool:
        return self.stream and self.stream_options is not None and self.stream_options.include_usage

    @property
    def sampling(self) -> SamplingOptions:
        return SamplingOptions(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=tuple(sorted((int(key), bias) for key, bias in self.logit_bias.items())),
            seed=self.seed,
        )

    def check(self) -> None:
        """Raises InvalidRequest for what no other layer knows, and for what is made before another layer looks."""
        if not 1 <= self.n <= checks.MAX_BRANCHES:
            raise InvalidRequest("n", f"must be from 1 to {checks.MAX_BRANCHES}, not {self.n}")
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options", "is for stream=true")


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    prompt: Prompt = ""
    max_tokens: Count = 16
    best_of: Count | None = None
    logprobs: Count | None = None
    echo: bool = False
    suffix: str = ""
    session_id: str = ""
    expected_position: Annotated[int, Field(ge=0, lt=2**63)] | None = None

    @property
    def prompts(self) -> list[Input]:
        """Returns the prompts, one for each text or list of ids."""
        given: Any = self.prompt
        if isinstance(given, str) or (given and isinstance(given[0], int)):
            given = [given]
        return [one if isinstance(one, str) else tuple(one) for one in given]

    def check(self) -> None:
        super().check()
        if self.logprobs is not None and self.logprobs > checks.MAX_LOG_PROBABILITIES:
            raise InvalidRequest("logprobs", f"must be from 0 to {checks.MAX_LOG_PROBABILITIES}, not {self.logprobs}")
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


class TokenizeBody(Body):
    """POST /tokenize, as lm-evaluation-harness asks. No token is special here."""

    prompt: str
    add_special_tokens: bool = False
    model: str = ""


class DetokenizeBody(Body):
    """POST /detokenize."""

    tokens: list[Count]
    model: str = ""
