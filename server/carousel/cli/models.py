"""`carousel models`: the models that the server holds."""

import dataclasses
import json
from collections.abc import Iterator

from carousel.cli.connection import DEFAULT_ADDRESS, Address, AsJson, open_client
from carousel.client import ModelInfo


def models(as_json: AsJson = False, address: Address = DEFAULT_ADDRESS) -> None:
    """Describe the server's models."""
    with open_client(address) as client:
        for model in client.models():
            print(json.dumps(dataclasses.asdict(model)) if as_json else "\n".join(_describe(model)))


def _describe(model: ModelInfo) -> Iterator[str]:
    """Yields a line for each fact. Deeply nested facts, the training settings, only appear with --json."""
    yield model.name
    facts = dataclasses.asdict(model)
    del facts["name"]
    facts |= facts.pop("limits")
    training = facts.pop("training")
    for name, value in facts.items():
        yield _line(name, value)
    for name, value in training.items():
        nested = value if isinstance(value, dict) else {"": value}
        if not any(isinstance(fact, dict | list) for fact in nested.values()):
            for inner, fact in nested.items():
                yield _line(f"training {name} {inner}".rstrip(), fact)


def _line(name: str, value: object) -> str:
    return f"  {name.replace('_', ' '):<36} {_show(value)}"


def _show(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
