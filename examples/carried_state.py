"""A conversation in several requests equals the same text in one: the server carries the state between them.

    python examples/carried_state.py BUNDLE

Starts a server on the bundle, tells it a text in three requests on one session and the same text in one request on
another, shows both side by side, and ends by saying how to serve the bundle.
"""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from carousel.client import Client, Session

PARTS = ("Once upon a time", " there was a king who had", " three sons, and")
NUM_TOKENS = 32
SEED = 7


@contextlib.contextmanager
def serve(bundle: Path) -> Iterator[str]:
    """`carousel serve` on free ports for as long as the block runs; yields the gRPC address."""
    command = [
        sys.executable,
        "-m",
        "carousel",
        "serve",
        str(bundle),
        "--listen",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
    ]
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


def tell(session: Session, parts: tuple[str, ...]) -> tuple[str, list[int], int]:
    """Feed all parts, each in a request of its own, then generate with one seed: text, token ids, final position."""
    for part in parts[:-1]:
        session.feed(part)
    text, ids, position = "", [], 0
    for piece in session.generate(parts[-1], max_tokens=NUM_TOKENS, temperature=0.6, top_p=0.9, seed=SEED):
        text += piece.text
        ids += [token.id for token in piece.tokens]
        if piece.finished is not None:
            position = piece.finished.position
    return text, ids, position


def main(bundle: Path) -> int:
    console = Console()
    with serve(bundle) as address, Client(address) as client:
        model = client.model()
        console.print(
            f"\nServing [bold]{model.name}[/]: {model.num_parameters:,} parameters, "
            f"{model.state_bytes:,} bytes of state a session, on {model.provider}.\n"
        )
        with client.session() as in_parts, client.session() as at_once:
            told_in_parts = tell(in_parts, PARTS)
            told_at_once = tell(at_once, ("".join(PARTS),))
    table = Table("", f"{len(PARTS)} requests on one session", "1 request", title="Carried state", show_lines=True)
    table.add_row("told", " | ".join(PARTS), "".join(PARTS))
    table.add_row("answer", told_in_parts[0], told_at_once[0])
    table.add_row("token ids", *(" ".join(map(str, told[1])) for told in (told_in_parts, told_at_once)))
    table.add_row("position", str(told_in_parts[2]), str(told_at_once[2]))
    console.print(table)
    is_equal = told_in_parts == told_at_once
    console.print("[green]equal: every token, and the position[/]" if is_equal else "[red]they differ[/]")
    console.print(f"""
Serve it:         [bold].venv/bin/carousel serve {bundle}[/]
Talk to it:       [bold].venv/bin/carousel generate "Once upon a time"[/]       in another terminal
Autocomplete:     [bold].venv/bin/carousel predict[/]
Find surprises:   [bold].venv/bin/carousel score README.md[/]
""")
    return 0 if is_equal else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
