"""What a caller may ask for beside the prompt: names and types, checked by name. Knows neither wire nor transport."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

Prompt = str | Sequence[int]  # text, or token ids
Metadata = Sequence[tuple[str, str | bytes]]


class CallOptions(TypedDict, total=False):
    """What any call takes. `timeout_seconds` bounds the whole call, repeats and a stream's end included; None and
    infinity wait for ever, and with 0 or less the time is over at once. `metadata` has keys in lower case, with
    printable ASCII or, under keys that end in -bin, with bytes. Raises ValueError or TypeError for others."""

    timeout_seconds: float | None
    metadata: Metadata


class ChangeOptions(CallOptions, total=False):
    """What a call takes that makes, moves or ends sessions. The client sets a fresh id by itself; with one of the
    caller's own, another process can repeat the call too."""

    request_id: str | None


class TurnFields(TypedDict, total=False):
    """What any turn takes; the wire contract says what each means. A `Session` sets the first two by itself."""

    request_id: str | None
    expected_position: int | None
    state: bytes | None  # sealed; instead of a session


class TurnOptions(TurnFields, CallOptions, total=False):
    """What `score` takes beside its own arguments."""


class PredictFields(TurnFields, total=False):
    """What a predictor takes with each prompt."""

    k: int | None
    word_prefix: str | None  # asks for words that begin so; it is not fed
    num_words: int | None


class PredictOptions(PredictFields, CallOptions, total=False):
    """What `predict` takes."""


class GenerateOptions(TurnOptions, total=False):
    """What `generate` takes; the wire contract says what each means. None, or left out: the server's default."""

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
    """What shapes the request, without the Nones, and what shapes the call.

    `kind` is the TypedDict that says what there is. Raises TypeError for an unknown option.
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
