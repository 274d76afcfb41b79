"""No text of a user reaches the log, whichever layer fails with it."""

import json
import subprocess
import sys

import pytest
from tests.server.rpc.marked_prompts import MARK


@pytest.fixture(scope="module")
def done() -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "dev", "-m", "tests.server.rpc.marked_prompts"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_no_layer_logs_a_prompt(done: subprocess.CompletedProcess[str]) -> None:
    """Transport, conversion, sessions, ledger, tokenizer, model, store, and gRPC's and asyncio's own messages: each
    fails with the prompt in its error and variables, and the log does not contain it."""
    assert done.returncode == 0, done.stderr
    assert MARK not in done.stderr
    assert MARK not in done.stdout


def test_every_layer_did_fail(done: subprocess.CompletedProcess[str]) -> None:
    """Otherwise the search would prove nothing: each call ended with INTERNAL and logged the type and the place."""
    ends = dict(line.split(": ") for line in done.stdout.splitlines())
    odd = {name: end for name, end in ends.items() if end != "INTERNAL"}
    assert odd == {"outside of calls": "UNKNOWN", "forgotten task": "OK"}
    assert len(ends) == 14
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    named = [line["error"] for line in lines if "error" in line]
    assert len(named) >= 13  # only its class identifies the model's failure
    assert all(error["type"] == "builtins.ValueError" for error in named)
    assert all(error["frames"][-1].endswith(" fail") for error in named)
