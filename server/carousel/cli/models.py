"""`carousel models`: what the server holds."""

import dataclasses
import json
from collections.abc import Iterator

from carousel.cli.connection import DEFAULT_ADDRESS, Address, AsJson
from carousel.client import Client, ModelInfo


def models(as_json: AsJson = False, address: Address = DEFAULT_ADDRESS) -> None:
    """Describe the server's models."""
    with Client(address) as client:
        for model in client.models():
            print(json.dumps(dataclasses.asdict(model)) if as_json else "\n".join(_describe(model)))


def _describe(model: ModelInfo) -> Iterator[str]:
    yield model.name
    facts = dataclasses.asdict(model)
    del facts["name"]
    facts |= facts.pop("limits")
    training = facts.pop("training")
    for name, value in facts.items():
        yield f"  {name.replace('_', ' '):<22} {f'{value:,}' if isinstance(value, int) else value}"
    for name, value in training.items():
        yield f"  {'training: ' + name.replace('_', ' '):<22} {value}"
