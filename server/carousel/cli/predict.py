"""`carousel predict`: shows the next words while the user types. Without a terminal, each input line gives an output
line."""

import asyncio
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated

import typer

from carousel.cli.connection import DEFAULT_ADDRESS, Address, AsJson, explaining_missing, open_client
from carousel.cli.draft import Draft
from carousel.cli.suggestions import NUM_ASKED, Suggestion, choose_suggestions, is_whole_word
from carousel.cli.texts import STANDARD_INPUT, read_lines
from carousel.client import Client, Predictor, ServerError


@dataclass(frozen=True, slots=True)
class Answer:
    """Words for a line. They replace `prefix` at its end; where that is empty, they follow the line."""

    rows: tuple[Suggestion, ...]
    prefix: str


def predict(
    words: Annotated[int, typer.Option(help="How many words to show.", min=1, max=9)] = 5,
    session: Annotated[
        str, typer.Option("--session", metavar="ID", help="Continue from this session, which stays unchanged.")
    ] = "",
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Type, and see the next words live; or pipe lines in, and get the words that may follow each."""
    with explaining_missing(session):
        if sys.stdin.isatty() and sys.stdout.isatty() and not as_json:
            from carousel.cli.predict_screen import run_screen  # the terminal library, only needed here

            asyncio.run(run_screen(address, words, session))
        else:
            _predict_lines(address, words, session, as_json=as_json)


def _predict_lines(address: str, num_words: int, session_id: str, *, as_json: bool) -> None:
    """Every line is a separate sequence."""
    with open_client(address) as client:
        do_spaces_lead = client.model().tokenizer != "word"
        for line in read_lines(STANDARD_INPUT):
            text = line.rstrip("\r\n")
            with _forked(client, session_id) as fork_id, client.predictor(session_id=fork_id) as predict_next:
                answer = _answer(predict_next, Draft(do_spaces_lead=do_spaces_lead), text, num_words)
            print(_to_json(text, answer) if as_json else _format(answer.rows), flush=True)


@contextmanager
def _forked(client: Client, session_id: str) -> Iterator[str]:
    """Yields the id of a fork of the session, deleted at the end; an empty id gives an empty id."""
    if not session_id:
        yield ""
        return
    [fork] = client.fork_session(session_id)
    try:
        yield fork.session_id
    finally:
        with suppress(ServerError):  # already gone, or it will expire
            client.delete_session(fork.session_id)


def _answer(predict_next: Predictor, draft: Draft, text: str, num_words: int) -> Answer:
    """Returns words that complete the end of the text; or, when that is a whole word, words that follow."""

    def ask(text: str) -> Answer:
        step = draft.advance(text)
        prediction = predict_next(step.feed, word_prefix=step.word_prefix, num_words=NUM_ASKED, k=num_words)
        return Answer(choose_suggestions(prediction, step.word_prefix or "", num_words), step.word_prefix or "")

    answer = ask(text)
    return Answer(ask(f"{text} ").rows, "") if is_whole_word(answer.rows, answer.prefix) else answer


def _to_json(text: str, answer: Answer) -> str:
    words = [{"text": row.text, "probability": round(row.probability, 6)} for row in answer.rows]
    return json.dumps({"text": text, "prefix": answer.prefix, "words": words}, ensure_ascii=False)


def _format(rows: Iterable[Suggestion]) -> str:
    return "\t".join(f"{row.label} {row.probability:.3f}" for row in rows)
