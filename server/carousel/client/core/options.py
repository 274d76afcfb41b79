"""The options of a call: names and types, checked by name. Knows neither wire nor transport."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

Prompt = str | Sequence[int]  # text, or token ids
Metadata = Sequence[tuple[str, str | bytes]]


class CallOptions(TypedDict, total=False):
    """The options of every call. `timeout_seconds` bounds the whole call, including retries and a stream's end; None
    and infinity never time out, and 0 or less times out at once. `metadata` has lower-case keys with printable ASCII
    or, under keys that end in -bin, bytes. Raises ValueError or TypeError for others."""

    timeout_seconds: float | None
    metadata: Metadata


class ChangeOptions(CallOptions, total=False):
    """The options of a call that creates, moves or ends sessions. The client sets a new id by default; with the
    caller's own id, another process can retry the call too."""

    request_id: str | None


class TurnFields(TypedDict, total=False):
    """The options of every turn; the wire contract defines each. A `Session` sets the first two by itself."""

    request_id: str | None
    expected_position: int | None
    state: bytes | None  # sealed; replaces a session


class TurnOptions(TurnFields, CallOptions, total=False):
    """The options of `score` beside its own arguments."""


class PredictFields(TurnFields, total=False):
    """The options of each predictor request."""

    k: int | None
    word_prefix: str | None  # asks for words with this prefix, which is not fed
    num_words: int | None


class PredictOptions(PredictFields, CallOptions, total=False):
    """The options of `predict`."""


class GenerateOptions(TurnOptions, total=False):
    """The options of `generate`; the wire contract defines each. None or absent means the server's default."""

    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | None
    seed: int | None
    stop: str | Sequence[str] | None
    stop_ids: Sequence[int] | None
    num_log_probabilities: int | None
    content: Literal["text", "ids", "both"] | None
    n: int | None


def split_options(options: Mapping[str, Any], kind: type) -> tuple[dict[str, Any], CallOptions]:
    """Returns the options of the request, without the Nones, and the options of the call.

    `kind` is the TypedDict that lists the options. Raises TypeError for an unknown option.
    """
    if not options:
        return {}, CallOptions()
    if unknown := options.keys() - kind.__annotations__.keys():
        raise TypeError(f"unknown option {', '.join(sorted(unknown))}")
    of_call = CallOptions()
    if "timeout_seconds" in options:
        of_call["timeout_seconds"] = options["timeout_seconds"]
    if "metadata" in options:
        of_call["metadata"] = options["metadata"]
    return {key: value for key, value in options.items() if key not in of_call and value is not None}, of_call
