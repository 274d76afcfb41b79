"""`carousel tokenize`: shows how the server's model splits a text."""

import dataclasses
import json
from typing import Annotated

import typer

from carousel.cli.connection import DEFAULT_ADDRESS, Address, AsJson, open_client
from carousel.cli.texts import STANDARD_INPUT, read_text


def tokenize(
    text: Annotated[str, typer.Argument(help="- reads it from standard input.")],
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Print the tokens of a text, one on each line."""
    given = read_text(text) if text == STANDARD_INPUT else text
    with open_client(address) as client:
        for token in client.tokenize(given):
            print(json.dumps(dataclasses.asdict(token)) if as_json else f"{token.id}\t{token.text!r}")
