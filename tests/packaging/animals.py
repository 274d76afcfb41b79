"""A served model that has learned in seconds which animal says what, and environments in which clients ask it."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.packaging.environments import clean_environ, make_environment
from tests.server_process import serve

from carousel.client import Client

SOUNDS = {
    "cow": "moo",
    "dog": "woof",
    "cat": "meow",
    "duck": "quack",
    "sheep": "baa",
    "horse": "neigh",
    "pig": "oink",
    "frog": "croak",
}
TURNS = ("The cow", "")  # the prompts of a session
_PINS = Path(__file__).parent / "clients"  # every package of each environment
_OFFLINE = {
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}
_TRAINING = """
seed = 0
vocabulary = {kind = "byte"}
model = {hidden_size = 64, embedding_size = 32, dropout = 0.0}
batch = {num_lanes = 4, segment = 32}
optimizer = {learning_rate = 0.02}
budget = {max_steps = 400}
compute = {precision = "float32", threads = 1}
"""


@dataclass(frozen=True)
class Served:
    """Addresses of a server whose model is `animals`."""

    grpc_address: str
    openai_url: str


@contextmanager
def serve_animals(folder: Path) -> Iterator[Served]:
    """Trains, exports and serves with the commands that users have. The lines come in every order, so that only the
    animal tells the sound."""
    lines = [f"The {animal} says {sound}.\n" for animal, sound in SOUNDS.items()]
    (folder / "text.txt").write_text("".join(lines[(step * n) % 8] for step in (1, 3, 5, 7) * 20 for n in range(8)))
    (folder / "settings.toml").write_text(_TRAINING)
    programs = Path(sys.executable).parent
    training = [str(programs / "carousel-train"), "--config", "settings.toml", "--text", "text.txt", "--out", "run"]
    for command in (training, [str(programs / "carousel-export"), "run", "animals"]):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    log = folder / "log.jsonl"
    with serve(folder / "animals", "--set", "openai_listen=127.0.0.1:0", log=log) as running:
        ready = next(line for line in map(json.loads, log.read_text().splitlines()) if line["event"] == "ready")
        yield Served(running.grpc_address, f"http://{ready['openai']}/v1")


def install(name: str, folder: Path) -> Path:
    """Makes an environment of exactly the pinned packages. Returns its folder of programs."""
    programs = make_environment(folder / "env")
    pip = [str(programs / "pip"), "install", "--quiet", "--no-deps", "--requirement", str(_PINS / f"{name}.txt")]
    subprocess.run(pip, cwd=folder, env=clean_environ(), check=True, timeout=270)
    return programs


def run(folder: Path, *command: str) -> str:
    """Returns what the command prints. It needs no other host than the server's."""
    environment = clean_environ() | _OFFLINE
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def generate(client: Client, prompt: str, num_tokens: int, **options: Any) -> str:
    return "".join(piece.text for piece in client.generate(prompt, max_tokens=num_tokens, **options))


def rate(client: Client, text: str) -> list[float]:
    """Returns the log-probabilities of a text's tokens: each is a byte."""
    return [token.log_probability for piece in client.score(text) for token in piece.tokens]


def check(made: Mapping[str, Any], ours: Client) -> None:
    """Checks texts that all clients ask for in the same words."""
    cow, dog = (generate(ours, f"The {animal} says", 200, temperature=0) for animal in ("cow", "dog"))
    assert cow.startswith(" moo.\nThe ")
    assert made["whole"] == cow
    assert "".join(made["stream"]) == cow
    assert "".join(made["async_stream"]) == cow
    assert made["batch"] == [cow, dog]
    with ours.session() as session:
        turns = [session.generate(text, max_tokens=4, temperature=0) for text in TURNS]
        assert made["session"] == ["".join(piece.text for piece in turn) for turn in turns]


def check_sampled(choices: list[tuple[str, Mapping[str, Any]]], ours: Client) -> None:
    """Checks two continuations of `The` by the seed 5, and their log-probabilities."""
    assert choices[0][0] == generate(ours, "The", 40, temperature=0.9, top_p=0.8, seed=5)
    assert len(choices) == 2
    for text, logprobs in choices:
        assert "".join(logprobs["tokens"]) == text
        assert logprobs["token_logprobs"] == pytest.approx(rate(ours, f"The{text}")[3:], abs=1e-4)
