"""`carousel score`: how surprising a text is to the model, token by token or line by line."""

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from carousel.cli.connection import DEFAULT_ADDRESS, Address, SessionId, explaining_missing, open_client
from carousel.cli.score_lines import score_lines
from carousel.cli.texts import read_lines, read_text, show, split_text
from carousel.client import Client, ScoredToken, ScorePiece, ScoreTotals

_NUM_OVERHEAD_BYTES = 4096  # what a message holds beside its text
_STYLES = ("", "yellow", "bold dark_orange", "bold white on red")  # from expected to very surprising


def score(
    file: Annotated[str, typer.Argument(help="A text file; - reads standard input.")],
    top_g: Annotated[int, typer.Option(min=1, help="A token is a hit among the g likeliest.")] = 10,
    lines: Annotated[bool, typer.Option("--lines", help="Score each line separately; print JSON lines.")] = False,
    session: SessionId = "",
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Show which tokens of a text surprise the model, and by how much."""
    if lines and session:
        raise typer.BadParameter("--lines scores every line separately; it cannot be combined with --session")
    with open_client(address) as client, explaining_missing(session):
        if lines:
            score_lines(client, read_lines(file), top_g)
        else:
            _score_text(client, read_text(file), top_g, session)


def _score_text(client: Client, text: str, top_g: int, session_id: str) -> None:
    console = Console(highlight=False, soft_wrap=True)
    sums = Sums()
    for piece in _rate(client, text, top_g, session_id):
        console.print(_colour(piece.tokens, top_g), end="")
        if piece.totals is not None:
            sums = sums.add(piece.totals)
    console.print("" if text.endswith("\n") else "\n", end="")
    console.print(_legend(top_g))
    console.print(sums.describe(top_g))


def _rate(client: Client, text: str, top_g: int, session_id: str) -> Iterator[ScorePiece]:
    """Scores a text. One that is too long for one request goes through a temporary session, part by part."""
    limits = client.model().limits
    num_bytes = min(
        limits.max_input_tokens,
        limits.max_message_bytes - _NUM_OVERHEAD_BYTES,
        limits.max_input_bytes or limits.max_input_tokens,  # an older server does not report it
    )
    parts = list(split_text(text, num_bytes))
    with ExitStack() as stack:
        if not session_id and len(parts) > 1:
            session_id = stack.enter_context(client.session()).session_id
        for part in parts:
            yield from client.score(part, session_id=session_id, top_g=top_g)


@dataclass(frozen=True, slots=True)
class Sums:
    """Totals over the parts of one text."""

    num_tokens: int = 0
    log_probability: float = 0.0  # nats
    num_hits: int = 0

    def add(self, totals: ScoreTotals) -> "Sums":
        return Sums(
            self.num_tokens + totals.num_tokens,
            self.log_probability + totals.log_probability,
            self.num_hits + totals.num_hits,
        )

    def describe(self, top_g: int) -> str:
        if not self.num_tokens:
            return "no tokens"
        nats = -self.log_probability / self.num_tokens
        return (
            f"{self.num_tokens:,} tokens, {nats:.4f} nats/token, {nats / math.log(2):.4f} bits/token, "
            f"perplexity {_exp(nats):.4g}, {self.num_hits / self.num_tokens:.1%} among the {top_g} likeliest"
        )


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf


def style_of(rank: int, top_g: int) -> str:
    """Returns the next style for every factor of ten beyond g."""
    level = sum(rank > top_g * factor for factor in (1, 10, 100))
    return _STYLES[level]


def _colour(tokens: Iterable[ScoredToken], top_g: int) -> Text:
    text = Text()
    for token in tokens:
        text.append(show(token.text), style_of(token.rank, top_g))
    return text


def _legend(top_g: int) -> Text:
    bounds = (f"rank 1 to {top_g:,}", f"to {10 * top_g:,}", f"to {100 * top_g:,}", "beyond")
    return Text("  ").join(Text(label, style) for label, style in zip(bounds, _STYLES, strict=True))
