"""`carousel models` describes the models."""

import json

from tests.server.cli.conftest import Run


def test_a_model_is_described_in_lines(run: Run) -> None:
    """The name comes first, then facts, limits and training notes."""
    lines = run("models").out.splitlines()
    assert lines[0] == "counter"
    facts = {line.rsplit(maxsplit=1)[0].strip(): line.rsplit(maxsplit=1)[1] for line in lines[1:] if line.split()[1:]}
    assert facts["num parameters"] == "12,345"
    assert facts["max input tokens"] == "16"
    assert facts["training corpus"] == "numbers"
    assert facts["has chat template"] == "no"


def test_a_model_is_described_as_json(run: Run) -> None:
    """The JSON has all that the server says."""
    [line] = run("models", "--json").out.splitlines()
    assert json.loads(line)["limits"]["max_input_tokens"] == 16
