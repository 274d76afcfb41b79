"""`carousel predict`: type, and see the next words live. Without a terminal, a line in gives a line out."""

import asyncio
import json
import sys
from collections.abc import Iterable
from typing import Annotated

import typer

from carousel.cli.connection import DEFAULT_ADDRESS, Address, AsJson
from carousel.cli.draft import Draft
from carousel.cli.suggestions import NUM_ASKED, Suggestion, choose_suggestions
from carousel.cli.texts import STANDARD_INPUT, read_lines
from carousel.client import Client


def predict(
    words: Annotated[int, typer.Option(help="How many words to show.", min=1, max=9)] = 5,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Type, and see the next words live; or pipe lines in, and get the words that may follow each."""
    if sys.stdin.isatty() and sys.stdout.isatty() and not as_json:
        from carousel.cli.predict_screen import run_screen  # the terminal library, needed here alone

        asyncio.run(run_screen(address, words))
    else:
        _predict_lines(address, words, as_json=as_json)


def _predict_lines(address: str, num_words: int, *, as_json: bool) -> None:
    """Every line is a sequence of its own."""
    with Client(address) as client:
        do_spaces_lead = client.model().tokenizer != "word"
        for line in read_lines(STANDARD_INPUT):
            text = line.rstrip("\r\n")
            step = Draft(do_spaces_lead=do_spaces_lead).advance(text)
            prediction = client.predict(step.feed, word_prefix=step.word_prefix, num_words=NUM_ASKED, k=num_words)
            rows = choose_suggestions(prediction, step.word_prefix or "", num_words)
            print(_to_json(text, rows) if as_json else _format(rows), flush=True)


def _to_json(text: str, rows: Iterable[Suggestion]) -> str:
    words = [{"text": row.text, "probability": round(row.probability, 6)} for row in rows]
    return json.dumps({"text": text, "words": words}, ensure_ascii=False)


def _format(rows: Iterable[Suggestion]) -> str:
    return "\t".join(f"{row.label} {row.probability:.3f}" for row in rows)
