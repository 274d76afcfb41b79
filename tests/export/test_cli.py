"""`carousel-export` from the command line."""

from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from carousel.bundle.manifest import Bundle
from carousel_export import bundle_writer
from carousel_export.cli import EXIT_BAD_INPUT, EXIT_NO_PARITY, app
from carousel_export.graphs import build_core
from carousel_training.checkpoint import save_tokenizer
from carousel_training.model import RecurrentLM
from carousel_training.settings import VocabularySettings
from carousel_training.vocabulary import learn_vocabulary


def build_corrupt_core(model: RecurrentLM) -> onnx.ModelProto:
    """The core with one recurrent weight changed."""
    graph = build_core(model)
    for constant in graph.graph.initializer:
        if constant.name == "layer_1.R":
            array = numpy_helper.to_array(constant).copy()
            array[0, 0, 0] += 0.05
            constant.CopyFrom(numpy_helper.from_array(array, constant.name))
    return graph


def test_a_checkpoint_becomes_a_bundle(checkpoint: Path, tmp_path: Path) -> None:
    """The table shows every check, the bundle loads, is called as asked, and carries the training facts."""
    result = CliRunner().invoke(app, [str(checkpoint), str(tmp_path / "fox"), "--name", "reynard"])
    assert result.exit_code == 0, result.output
    assert result.output.count("holds") == 8
    bundle = Bundle.load(tmp_path / "fox")
    assert bundle.manifest.name == "reynard"
    assert bundle.manifest.digest[:16] in result.output
    assert bundle.manifest.training == {"steps": 3, "corpus": "TEXT"}


def test_one_wrong_weight_publishes_nothing(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that computes something else is caught: exit code 1, the figures, and the old bundle untouched."""
    target = tmp_path / "fox"
    assert CliRunner().invoke(app, [str(checkpoint), str(target)]).exit_code == 0
    digest = Bundle.load(target).manifest.digest
    monkeypatch.setattr(bundle_writer, "build_core", build_corrupt_core)
    result = CliRunner().invoke(app, [str(checkpoint), str(target)])
    assert result.exit_code == EXIT_NO_PARITY
    assert "fails" in result.stdout
    assert "logits, largest difference" in result.stderr
    assert "nothing is published" in result.stderr
    assert Bundle.load(target).manifest.digest == digest
    fresh = CliRunner().invoke(app, [str(checkpoint), str(tmp_path / "other")])
    assert fresh.exit_code == EXIT_NO_PARITY
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fox", "run"]


def refused(checkpoint: Path, target: Path) -> str:
    """The one sentence that a refused export prints."""
    result = CliRunner().invoke(app, [str(checkpoint), str(target)])
    assert result.exit_code == EXIT_BAD_INPUT, result.output
    assert not target.exists()
    assert len(result.stderr.strip().splitlines()) == 1
    return result.stderr


def test_no_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    """A directory without a checkpoint, and no directory at all."""
    assert "no checkpoint at" in refused(tmp_path, tmp_path / "fox")
    assert "no checkpoint at" in refused(tmp_path / "absent", tmp_path / "fox")


def test_a_truncated_checkpoint_is_one_sentence(checkpoint: Path, tmp_path: Path) -> None:
    """The file that was cut short is named."""
    (tensors,) = checkpoint.glob("*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:100])
    assert f"{tensors.name} is truncated" in refused(checkpoint, tmp_path / "fox")


def test_a_vocabulary_that_does_not_fit_is_one_sentence(checkpoint: Path, tmp_path: Path) -> None:
    """Another run's tokenizer beside the checkpoint is noticed."""
    save_tokenizer(checkpoint, learn_vocabulary("xyz", VocabularySettings.model_validate({"kind": "character"})))
    assert "tokenizer.json is not the vocabulary of this checkpoint" in refused(checkpoint, tmp_path / "fox")


def test_a_target_that_is_not_a_bundle_is_left_alone(checkpoint: Path) -> None:
    """Exporting onto the run's own directory is refused before anything is written."""
    before = sorted(path.name for path in checkpoint.iterdir())
    result = CliRunner().invoke(app, [str(checkpoint), str(checkpoint)])
    assert result.exit_code == EXIT_BAD_INPUT
    assert "is not a bundle; it is left alone" in result.stderr
    assert sorted(path.name for path in checkpoint.iterdir()) == before
