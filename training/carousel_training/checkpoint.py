"""Checkpoints on disk. `NAME.json` describes a checkpoint and names the safetensors file with its tensors.

The tensors are written first, under a name of their own. The checkpoint exists from the moment the JSON file is
renamed, so a crash at any point leaves the checkpoint before it whole. This module does not know what the tensors mean,
except `rebuild_model`, which uses those of the network.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from carousel.bundle.chat import ChatFormat
from carousel.bundle.tokenizer import FILE_NAME as TOKENIZER_FILE
from carousel.bundle.tokenizer import Tokenizer, TokenizerKind
from carousel_training.errors import CheckpointError
from carousel_training.model import ModelConfig, RecurrentLM

FORMAT = 2  # in 1, weights began by other rules, inputs had no scale, and generators' states were stored
BEST = "best"
LAST = "last"
MODEL_PREFIX = "model."


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A saved checkpoint: plain facts, tensors by name, and the tokenizer beside them."""

    path: Path
    facts: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    tokenizer: Tokenizer


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """Holds a network in evaluation mode on the CPU, its tokenizer, and the facts of its training. `chat` says how
    conversations become text, if it learned from some."""

    model: RecurrentLM
    tokenizer: Tokenizer
    training: Mapping[str, Any]
    chat: ChatFormat | None = None


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces the content of a file. Afterwards the file has the old or the new content, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)


def save_tokenizer(directory: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """Writes `tokenizer.json` and returns the facts that tie a checkpoint to it."""
    tokenizer.save(directory / TOKENIZER_FILE)
    content = (directory / TOKENIZER_FILE).read_bytes()
    return {"kind": str(tokenizer.kind), "size": tokenizer.size, "sha256": hashlib.sha256(content).hexdigest()}


def save_checkpoint(directory: Path, name: str, facts: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Replaces the checkpoint `name`. `facts["step"]` distinguishes its tensor file from the one before."""
    content = save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()})
    digest = hashlib.sha256(content).hexdigest()
    tensor_file = f"{name}-{facts['step']:08d}-{digest[:8]}.safetensors"
    write_atomically(directory / tensor_file, content)
    described = {"format": FORMAT, **facts, "tensors": tensor_file, "sha256": digest}
    write_atomically(directory / f"{name}.json", (json.dumps(described, indent=1) + "\n").encode())
    for old in directory.glob(f"{name}-*.safetensors"):
        if old.name != tensor_file:
            old.unlink(missing_ok=True)


def load_checkpoint(directory: Path, name: str) -> Checkpoint:
    """Raises CheckpointError with the name of the file that is missing, damaged or does not fit the others."""
    path = directory / f"{name}.json"
    facts = _read_facts(path)
    try:
        tensor_path, digest = directory / Path(facts["tensors"]).name, facts["sha256"]
        tokenizer = _read_tokenizer(directory / TOKENIZER_FILE, facts["tokenizer"])
        vocabulary_size = facts["model"]["vocabulary_size"]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a checkpoint: {error} is missing or has the wrong type") from error
    if tokenizer.size != vocabulary_size:
        raise CheckpointError(
            f"{directory / TOKENIZER_FILE} has {tokenizer.size} tokens and the model of {path} has {vocabulary_size}"
        )
    return Checkpoint(path, facts, _read_tensors(tensor_path, digest), tokenizer)


def load_best(directory: Path) -> Checkpoint:
    """Loads the best checkpoint of a run's directory, or the last if none was evaluated yet. Raises CheckpointError."""
    return load_checkpoint(directory, LAST if not (directory / f"{BEST}.json").exists() else BEST)


def load_model(directory: Path) -> TrainedModel:
    """Loads the network of `load_best`. Raises CheckpointError."""
    return rebuild_model(load_best(directory))


def rebuild_model(checkpoint: Checkpoint) -> TrainedModel:
    """Rebuilds the network of a checkpoint. Raises CheckpointError when the weights do not fit their description, and
    for a chat template that is none."""
    weights = model_tensors(checkpoint.tensors)
    try:
        model = RecurrentLM(ModelConfig(**checkpoint.facts["model"]))
        model.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"the weights of {checkpoint.path} do not fit the model it describes: {error}") from error
    return TrainedModel(
        model.eval(), checkpoint.tokenizer, checkpoint.facts.get("training", {}), _read_chat(checkpoint)
    )


def _read_chat(checkpoint: Checkpoint) -> ChatFormat | None:
    try:
        chat = checkpoint.facts.get("chat")  # runs of older versions say nothing of it
        return None if chat is None else ChatFormat.from_json(chat)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error


def model_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the network's own tensors under the network's names."""
    return {key.removeprefix(MODEL_PREFIX): t for key, t in tensors.items() if key.startswith(MODEL_PREFIX)}


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"no checkpoint at {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(facts, dict) or not isinstance(facts.get("format"), int):
        raise CheckpointError(f"{path} is not a checkpoint")
    if facts["format"] != FORMAT:
        age = "an older" if facts["format"] < FORMAT else "a newer"
        raise CheckpointError(
            f"{path} has format {facts['format']}, of {age} version, and this version reads format {FORMAT}; train "
            "again, or export and resume the checkpoint with its own version"
        )
    return facts


def _read_tokenizer(path: Path, expected: Mapping[str, Any]) -> Tokenizer:
    try:
        content = path.read_bytes()
        tokenizer = Tokenizer.parse(TokenizerKind(expected["kind"]), content)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise CheckpointError(
            f"{path} is not the vocabulary of this checkpoint: it has {tokenizer.size} tokens, "
            f"and the checkpoint was trained on another one with {expected['size']}"
        )
    return tokenizer


def _read_tensors(path: Path, digest: str) -> dict[str, torch.Tensor]:
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise CheckpointError(f"{path} is truncated or was changed: its digest is not the checkpoint's")
        return load(content)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
