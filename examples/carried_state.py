"""What a server of recurrent models does, in half a minute: it streams, it is surprised, and it carries a state.

    python examples/carried_state.py BUNDLE

Starts a server on the bundle; has it tell a tale, shown as it comes; rates a sentence with a slip in it; and tells one
session in three requests what another is told in one: the answers are equal. Ends by saying how to serve the bundle.
"""

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

from carousel.client import Client, Piece, ScoredToken, Session

PARTS = ("Once upon a time", " there was a king who had", " three sons, and")
SLIP = "The king said to his dauhgter that she should go into the forest."
NUM_TOKENS = 96
SEED = 7
STYLES = ((1000, "bold white on red"), (100, "bold dark_orange"), (10, "yellow"))  # above which rank


@contextlib.contextmanager
def serve(bundle: Path) -> Iterator[str]:
    """`carousel serve` on free ports for as long as the block runs; yields the gRPC address."""
    command = [sys.executable, "-m", "carousel", "serve", str(bundle)]
    command += ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    process = subprocess.Popen([*command, "--set", "log_level=warning"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        ready = re.match(r"serving gRPC on (\S+),", line)
        if ready is None:
            sys.exit(f"the server did not start: {line}")
        yield ready[1]
    finally:
        process.terminate()
        process.communicate()


def show_stream(console: Console, prompt: str, pieces: Iterable[Piece]) -> None:
    """Each piece is on the screen before the next one is asked for; then how soon the first was there, and how many."""
    console.print(Text(prompt, "bold"), end="", soft_wrap=True)
    started, first, num_pieces, num_tokens = time.perf_counter(), 0.0, 0, 0
    for piece in pieces:
        first = first or time.perf_counter() - started
        console.print(Text(piece.text), end="", soft_wrap=True)
        num_pieces += bool(piece.text)
        if piece.finished is not None:
            num_tokens = piece.finished.num_generated_tokens
    console.print(
        f"\n[dim]{num_tokens} tokens in {num_pieces} messages, the first after {1000 * first:.0f} ms[/]",
        highlight=False,
    )


def show_surprise(console: Console, tokens: Iterable[ScoredToken]) -> None:
    """The text, each token in the colour of its rank; then the one that the model expected least."""
    text, worst = Text(), None
    for token in tokens:
        text.append(token.text, next((style for rank, style in STYLES if token.rank > rank), ""))
        worst = token if worst is None or token.rank > worst.rank else worst
    console.print(text, soft_wrap=True)
    if worst is not None:
        console.print(
            f"[dim]expected least: {worst.text!r}, of rank {worst.rank:,} among the model's choices[/]", highlight=False
        )


def tell(session: Session, parts: tuple[str, ...]) -> tuple[list[int], int]:
    """Feed all parts, each in a request of its own, then generate with one seed: token ids, final position."""
    for part in parts[:-1]:
        session.feed(part)
    ids: list[int] = []
    position = 0
    for piece in session.generate(parts[-1], max_tokens=NUM_TOKENS, temperature=0.7, seed=SEED):
        ids += [token.id for token in piece.tokens]
        if piece.finished is not None:
            position = piece.finished.position
    return ids, position


def compare(console: Console, client: Client) -> bool:
    """The same text in several requests and in one: a line for whether they agree, a line for what they said."""
    with client.session() as in_parts, client.session() as at_once:
        told, told_at_once = tell(in_parts, PARTS), tell(at_once, ("".join(PARTS),))
    is_equal = told == told_at_once
    verdict = "[green]equal[/]" if is_equal else "[red]not equal[/]"
    console.print(
        f"{verdict}: {len(PARTS)} requests on one session, and 1 request; {len(told[0])} tokens each, "
        f"to position {told[1]}",
        highlight=False,
        soft_wrap=True,
    )
    shown = " ".join(map(str, told[0]))
    console.print(Text(f"ids {shown}", "dim"), no_wrap=True, overflow="ellipsis")
    return is_equal


def main(bundle: Path) -> int:
    console = Console()
    with serve(bundle) as address, Client(address) as client:
        model = client.model()
        console.print(
            f"\nServing [bold]{model.name}[/]: {model.num_parameters:,} parameters, "
            f"{model.state_bytes:,} bytes of state a session, on {model.provider}."
        )
        console.print("\n[cyan]It streams:[/]")
        show_stream(
            console, "".join(PARTS), client.generate("".join(PARTS), max_tokens=NUM_TOKENS, temperature=0.7, seed=SEED)
        )
        console.print("\n[cyan]It is surprised by a slip:[/]")
        show_surprise(console, [token for piece in client.score(SLIP) for token in piece.tokens])
        console.print("\n[cyan]It carries a state from request to request:[/]")
        is_equal = compare(console, client)
    console.print(
        f"""
Serve it:         [bold].venv/bin/carousel serve {bundle}[/]
Talk to it:       [bold].venv/bin/carousel generate "Once upon a time"[/]   in another terminal
Autocomplete:     [bold].venv/bin/carousel predict[/]
Find surprises:   [bold].venv/bin/carousel score README.md[/]
""",
        soft_wrap=True,
    )
    return 0 if is_equal else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
