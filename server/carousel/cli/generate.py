"""`carousel generate`: streams text from the model."""

import base64
import dataclasses
import json
import sys
from collections.abc import Iterable
from typing import Annotated

import typer

from carousel.cli.connection import DEFAULT_ADDRESS, Address, AsJson, SessionId, explaining_missing, open_client
from carousel.cli.texts import STANDARD_INPUT, read_text
from carousel.cli.transcript import Transcript
from carousel.client import GenerateOptions, Piece, Prompt


def generate(
    prompt: Annotated[str, typer.Argument(help="What to continue; - reads it from standard input.")] = "",
    session: SessionId = "",
    max_tokens: Annotated[int | None, typer.Option(help="How many tokens at most.")] = None,
    temperature: Annotated[
        float, typer.Option(help="0 always takes the likeliest token, 1 samples from the model unchanged.")
    ] = 0.7,
    top_k: Annotated[int | None, typer.Option(help="Choose among the k likeliest.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Choose among the likeliest up to this probability.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Drop tokens below this share of the likeliest.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1 avoids recent tokens.")] = None,
    presence_penalty: Annotated[float | None, typer.Option(help="Taken off the logits of recent tokens.")] = None,
    frequency_penalty: Annotated[float | None, typer.Option(help="The same, for each time they occur.")] = None,
    logit_bias: Annotated[list[str] | None, typer.Option(metavar="ID=BIAS", help="Added to a token's logit.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    n: Annotated[int | None, typer.Option("--n", help="How many texts, each with the next seed.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text. Repeatable.")] = None,
    stop_id: Annotated[list[int] | None, typer.Option(help="End after this token. Repeatable.")] = None,
    log_probabilities: Annotated[int | None, typer.Option(help="Candidates to report per token, with --json.")] = None,
    ids: Annotated[bool, typer.Option("--ids", help="Token ids instead of text, in PROMPT and in print.")] = False,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Continue a text; print the model's text as it arrives.

    On a terminal the prompt precedes it, and speed and seed follow it; a pipe gets only the model's text.
    """
    options = GenerateOptions(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        logit_bias=_parse_biases(logit_bias or []),
        seed=seed,
        stop=stop,
        stop_ids=stop_id,
        num_log_probabilities=log_probabilities,
        n=n,
        content="both" if as_json or sys.stdout.isatty() else "ids" if ids else "text",  # a terminal counts tokens
    )
    given = read_text(prompt) if prompt == STANDARD_INPUT else prompt
    transcript = Transcript(is_terminal=sys.stdout.isatty() and not as_json)
    with open_client(address) as client, explaining_missing(session):
        stream = client.generate(_parse_ids(given) if ids else given, session_id=session, **options)
        with transcript.around(f"{given} " if ids and given else given):
            if (n or 1) > 1 and not as_json:
                _write_branches(transcript, stream, ids=ids)
            else:
                for piece in stream:
                    transcript.count(piece)
                    transcript.write(_format(piece, ids=ids, as_json=as_json))
    if ids:
        transcript.end_line()


def _write_branches(transcript: Transcript, stream: Iterable[Piece], *, ids: bool) -> None:
    """Prints the texts one after another, each under a heading: their pieces arrive interleaved."""
    texts: dict[int, str] = {}
    for piece in stream:
        transcript.count(piece)
        texts[piece.branch] = texts.get(piece.branch, "") + _format(piece, ids=ids, as_json=False)
    transcript.end_line()
    for number in sorted(texts):
        transcript.write(f"--- {number + 1} of {len(texts)}\n{texts[number]}\n")


def _format(piece: Piece, *, ids: bool, as_json: bool) -> str:
    if as_json:
        return json.dumps(dataclasses.asdict(piece), ensure_ascii=False, default=_encode) + "\n"
    if ids:
        return "".join(f"{token.id} " for token in piece.tokens)
    return piece.text


def _encode(state: bytes) -> str:
    return base64.b64encode(state).decode()


def _parse_ids(text: str) -> Prompt:
    try:
        return [int(word) for word in text.replace(",", " ").split()]
    except ValueError as error:
        raise typer.BadParameter("with --ids, PROMPT is token ids between spaces or commas") from error


def _parse_biases(pairs: list[str]) -> dict[int, float]:
    try:
        return {int(index): float(bias) for index, bias in (pair.split("=") for pair in pairs)}
    except ValueError as error:
        raise typer.BadParameter("--logit-bias takes ID=BIAS, such as 42=-100") from error
