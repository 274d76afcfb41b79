"""Checkpoints on disk are whole or absent, and errors name the file."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from carousel.bundle.chat import ChatFormat
from carousel.bundle.tokenizer import TokenizerKind
from carousel_training import checkpoint as checkpoints
from carousel_training.checkpoint import (
    LAST,
    load_checkpoint,
    load_model,
    save_checkpoint,
    save_tokenizer,
    write_atomically,
)
from carousel_training.errors import CheckpointError
from carousel_training.model import ModelConfig, RecurrentLM
from carousel_training.settings import VocabularySettings
from carousel_training.vocabulary import learn_vocabulary

TEXT = "abcdef\n"
CONFIG = ModelConfig(8, "gru", 1, 4, 4, tied=True, dropout=0.0)


def write(directory: Path, *, step: int = 1, config: ModelConfig = CONFIG) -> RecurrentLM:
    """Writes a checkpoint `last` of a random network over the characters of TEXT."""
    directory.mkdir(exist_ok=True)
    tokenizer = learn_vocabulary(TEXT, VocabularySettings(kind=TokenizerKind.CHARACTER))
    model = RecurrentLM(config)
    facts = {"step": step, "tokenizer": save_tokenizer(directory, tokenizer), "model": config.as_json()}
    save_checkpoint(directory, LAST, facts, {f"model.{k}": t for k, t in model.state_dict().items()})
    return model


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    """Weights are equal bit for bit and the tokenizer is the same."""
    model = write(tmp_path)
    trained = load_model(tmp_path)
    assert not trained.model.training
    assert trained.tokenizer.encode(TEXT) == [2, 3, 4, 5, 6, 7, 1]
    for name, tensor in model.state_dict().items():
        assert torch.equal(trained.model.state_dict()[name], tensor)


def test_only_the_newest_tensors_stay(tmp_path: Path) -> None:
    """A checkpoint that replaces another removes its tensor file."""
    for step in (1, 2):
        write(tmp_path, step=step)
    assert [path.name.startswith("last-00000002") for path in tmp_path.glob("*.safetensors")] == [True]


@pytest.mark.parametrize("writes_before_the_crash", [0, 1])
def test_a_crash_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes_before_the_crash: int
) -> None:
    """A crash before the tensors, or between tensors and facts, leaves the previous checkpoint whole."""
    old = write(tmp_path, step=1)
    done: list[Path] = []

    def crash(path: Path, content: bytes) -> None:
        if len(done) == writes_before_the_crash:
            raise KeyboardInterrupt
        done.append(path)
        write_atomically(path, content)

    monkeypatch.setattr(checkpoints, "write_atomically", crash)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, step=2)
    assert load_checkpoint(tmp_path, LAST).facts["step"] == 1
    assert torch.equal(load_model(tmp_path).model.output_bias, old.output_bias)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk fails before the rename, the old content stays and no temporary file is left."""
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_truncated_tensors_are_named(tmp_path: Path) -> None:
    """A truncated file is an error with its name."""
    write(tmp_path)
    (tensors,) = tmp_path.glob("*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"{tensors.name} is truncated or was changed"):
        load_model(tmp_path)


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    """Facts without their tensors are an error with the file's name."""
    write(tmp_path)
    (tensors,) = tmp_path.glob("*.safetensors")
    tensors.unlink()
    with pytest.raises(CheckpointError, match=f"cannot read .*{tensors.name}"):
        load_model(tmp_path)


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    """A tokenizer learned from other text does not fit, and the error gives both sizes."""
    write(tmp_path)
    save_tokenizer(tmp_path, learn_vocabulary("xyz", VocabularySettings(kind=TokenizerKind.CHARACTER)))
    with pytest.raises(CheckpointError, match=r"tokenizer.json is not the vocabulary .* 4 tokens, .* with 8"):
        load_model(tmp_path)


def test_a_model_of_another_size_than_its_vocabulary_is_refused(tmp_path: Path) -> None:
    """Facts that contradict each other are an error, not a crash later."""
    write(tmp_path, config=ModelConfig(9, "gru", 1, 4, 4, tied=True, dropout=0.0))
    with pytest.raises(CheckpointError, match="has 8 tokens and the model of .* has 9"):
        load_model(tmp_path)


def edit(directory: Path, **changes: Any) -> None:
    path = directory / "last.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": 99}, "last.json has format 99, of a newer version, and this version reads format 2"),
        (
            {"format": 1},
            "last.json has format 1, of an older version, .* train again, or export and resume the checkpoint with its",
        ),
        ({"format": "2"}, "last.json is not a checkpoint"),
        ({"format": None}, "last.json is not a checkpoint"),
        ({"tokenizer": {}}, "last.json is not a checkpoint: 'kind' is missing"),
        ({"model": CONFIG.as_json() | {"hidden_size": 5}}, "do not fit the model"),
        ({"model": CONFIG.as_json() | {"cell": "elman"}}, "do not fit the model"),
        ({"model": {"vocabulary_size": 8}}, "do not fit the model"),
    ],
)
def test_edited_facts_are_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    """For any wrong facts, the error is a CheckpointError that names the file."""
    write(tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=sentence):
        load_model(tmp_path)


def test_an_empty_directory_is_named(tmp_path: Path) -> None:
    """No checkpoint is an error with the path that was looked for."""
    with pytest.raises(CheckpointError, match="no checkpoint at .*last.json"):
        load_model(tmp_path)


def test_facts_that_are_not_json_are_named(tmp_path: Path) -> None:
    """A truncated JSON file is an error with its path."""
    write(tmp_path)
    (tmp_path / "last.json").write_text('{"format": 1,')
    with pytest.raises(CheckpointError, match="last.json is not JSON"):
        load_model(tmp_path)


def test_a_chat_template_comes_back_or_is_refused(tmp_path: Path) -> None:
    """Checkpoints of older versions have none."""
    write(tmp_path)
    assert load_model(tmp_path).chat is None
    old = json.loads((tmp_path / "last.json").read_text())
    (tmp_path / "last.json").write_text(json.dumps(old | {"chat": None}))
    assert load_model(tmp_path).chat is None
    (tmp_path / "last.json").write_text(json.dumps(old | {"chat": {"template": "{{ messages }}", "stops": ["."]}}))
    assert load_model(tmp_path).chat == ChatFormat("{{ messages }}", (".",))
    (tmp_path / "last.json").write_text(json.dumps(old | {"chat": {"template": "{{"}}))
    with pytest.raises(CheckpointError, match=r"last\.json: line 1 of the chat template"):
        load_model(tmp_path)
