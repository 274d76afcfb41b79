"""`carousel-export` on the command line publishes a checked bundle or says in one sentence why not."""

import re
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper
from tests.export.networks import build_model
from typer.testing import CliRunner

from carousel.bundle.manifest import Bundle
from carousel.bundle.tokenizer import Tokenizer
from carousel_export import bundle_writer, cli
from carousel_export.cli import EXIT_BAD_INPUT, EXIT_NO_PARITY, app
from carousel_export.graphs import build_core
from carousel_export.held_out import Perplexities
from carousel_export.precision import Precision
from carousel_training.checkpoint import BEST, save_checkpoint, save_tokenizer
from carousel_training.model import RecurrentLM
from carousel_training.settings import VocabularySettings
from carousel_training.vocabulary import learn_vocabulary


def build_corrupt_core(model: RecurrentLM, precision: Precision) -> onnx.ModelProto:
    """Builds the core with one recurrent weight changed."""
    graph = build_core(model, precision)
    for constant in graph.graph.initializer:
        if constant.name == "layer_1.R":
            array = numpy_helper.to_array(constant).copy()
            array[0, 0, 0] += 0.05
            constant.CopyFrom(numpy_helper.from_array(array, constant.name))
    return graph


def test_a_checkpoint_becomes_a_bundle(checkpoint: Path, tmp_path: Path) -> None:
    """A line says what was checked; the bundle loads, has the given name, and carries the training facts."""
    result = CliRunner().invoke(app, [str(checkpoint), str(tmp_path / "fox"), "--name", "reynard"])
    assert result.exit_code == 0, result.output
    assert "9 checks hold; logits, largest difference " in result.output
    assert "┃" not in result.output
    assert "fresh starts are not checked: " in result.output
    bundle = Bundle.load(tmp_path / "fox")
    assert bundle.manifest.name == "reynard"
    assert bundle.manifest.digest[:16] in result.output
    assert bundle.manifest.training == {"steps": 3, "corpus": "TEXT"}


def test_one_wrong_weight_publishes_nothing(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that computes something else is refused: exit code 1, the figures, and the old bundle unchanged."""
    target = tmp_path / "fox"
    assert CliRunner().invoke(app, [str(checkpoint), str(target)]).exit_code == 0
    digest = Bundle.load(target).manifest.digest
    monkeypatch.setattr(bundle_writer, "build_core", build_corrupt_core)
    result = CliRunner().invoke(app, [str(checkpoint), str(target)])
    assert result.exit_code == EXIT_NO_PARITY
    assert "fails" in result.stdout
    assert result.stdout.count("holds") + result.stdout.count("fails") == 9
    assert "logits, largest difference" in result.stderr
    assert "nothing is published" in result.stderr
    assert Bundle.load(target).manifest.digest == digest
    fresh = CliRunner().invoke(app, [str(checkpoint), str(tmp_path / "other")])
    assert fresh.exit_code == EXIT_NO_PARITY
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fox", "run"]


def test_a_bundle_whose_sessions_begin_badly_is_not_published(checkpoint: Path, tmp_path: Path, held_out: Path) -> None:
    """A text shows what a fresh start costs, which is bounded; the option moves the bound."""
    options = ["--text", str(held_out)]
    result = CliRunner().invoke(app, [str(checkpoint), str(tmp_path / "fox"), *options])
    assert result.exit_code == 0, result.output
    assert "11 checks hold" in result.output
    result = CliRunner().invoke(app, [str(checkpoint), str(tmp_path / "dog"), *options, "--max-start-cost", "0"])
    assert result.exit_code == EXIT_NO_PARITY
    assert "fresh starts costs" in result.stderr
    assert "(at most 0); nothing is published" in result.stderr
    assert not (tmp_path / "dog").exists()


def test_a_named_text_that_is_not_there_is_one_sentence(checkpoint: Path, tmp_path: Path) -> None:
    """Only the run's own text may be missing without an error."""
    assert "cannot read" in refused(checkpoint, tmp_path / "fox", "--text", str(tmp_path / "absent"))


def refused(checkpoint: Path, target: Path, *options: str) -> str:
    """Returns the one sentence that a refused export prints."""
    result = CliRunner().invoke(app, [str(checkpoint), str(target), *options])
    assert result.exit_code == EXIT_BAD_INPUT, result.output
    assert not target.exists()
    assert len(result.stderr.strip().splitlines()) == 1
    return result.stderr


def test_no_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    """This holds for a directory without a checkpoint, and for no directory."""
    assert "no checkpoint at" in refused(tmp_path, tmp_path / "fox")
    assert "no checkpoint at" in refused(tmp_path / "absent", tmp_path / "fox")


def test_a_truncated_checkpoint_is_one_sentence(checkpoint: Path, tmp_path: Path) -> None:
    """The sentence names the file that was cut short."""
    (tensors,) = checkpoint.glob("*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:100])
    assert f"{tensors.name} is truncated" in refused(checkpoint, tmp_path / "fox")


def test_a_vocabulary_that_does_not_fit_is_one_sentence(checkpoint: Path, tmp_path: Path) -> None:
    """A tokenizer of another run beside the checkpoint is noticed."""
    save_tokenizer(checkpoint, learn_vocabulary("xyz", VocabularySettings.model_validate({"kind": "character"})))
    assert "tokenizer.json is not the vocabulary of this checkpoint" in refused(checkpoint, tmp_path / "fox")


def test_a_target_that_is_not_a_bundle_is_left_alone(checkpoint: Path) -> None:
    """An export onto the run's own directory is refused before anything is written."""
    before = sorted(path.name for path in checkpoint.iterdir())
    result = CliRunner().invoke(app, [str(checkpoint), str(checkpoint)])
    assert result.exit_code == EXIT_BAD_INPUT
    assert "is not a bundle; it stays as it is" in result.stderr
    assert sorted(path.name for path in checkpoint.iterdir()) == before


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    path = tmp_path / "held_out.txt"
    path.write_text("the lazy fox jumps over the quick dog\n" * 20)
    return path


def test_int8_says_what_it_costs(checkpoint: Path, tmp_path: Path, held_out: Path) -> None:
    """The output has both perplexities and their ratio on the named text, and the bundle says that it is int8."""
    options = ["--precision", "int8", "--text", str(held_out)]
    result = CliRunner().invoke(app, [str(checkpoint), str(tmp_path / "fox"), *options])
    assert result.exit_code == 0, result.output
    figures = r"760 tokens of held_out.txt: perplexity of float32 \d+\.\d+, of int8 \d+\.\d+, ratio [01]\.\d+"
    assert re.search(figures, result.output)
    assert "9 checks hold" in result.output
    assert Bundle.load(tmp_path / "fox").manifest.precision == "int8"


def test_int8_is_refused_beyond_its_bound(
    checkpoint: Path, tmp_path: Path, held_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rise above --max-perplexity-rise is exit code 1 with the figure, and nothing is published; a smaller one
    passes."""
    monkeypatch.setattr(cli, "compare_perplexity", lambda *_: Perplexities(10.0, 10.2))
    options = ["--precision", "int8", "--text", str(held_out)]
    result = CliRunner().invoke(app, [str(checkpoint), str(tmp_path / "fox"), *options])
    assert result.exit_code == EXIT_NO_PARITY
    assert "rise of perplexity over float32 0.02 (at most 0.01); nothing is published" in result.stderr
    assert not (tmp_path / "fox").exists()
    allowed = [*options, "--max-perplexity-rise", "0.03"]
    assert CliRunner().invoke(app, [str(checkpoint), str(tmp_path / "fox"), *allowed]).exit_code == 0


def test_int8_without_a_text_is_one_sentence(checkpoint: Path, tmp_path: Path) -> None:
    """This holds for a checkpoint that does not name its validation text, and for missing or empty files."""
    (tmp_path / "empty").touch()
    assert "does not say what it was validated on; name a text" in refused(
        checkpoint, tmp_path / "fox", "--precision", "int8"
    )
    for name, sentence in (("absent", "cannot read"), ("empty", "is empty")):
        found = refused(checkpoint, tmp_path / "fox", "--precision", "int8", "--text", str(tmp_path / name))
        assert "there is no held-out text to measure on" in found
        assert sentence in found


def test_int8_of_another_cell_is_one_sentence(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The sentence names the cells that can be int8, and needs no text for that."""
    model = build_model("elman", vocabulary_size=tokenizer.size)
    facts = {"step": 1, "tokenizer": save_tokenizer(tmp_path, tokenizer), "model": model.config.as_json()}
    save_checkpoint(tmp_path, BEST, facts, {f"model.{name}": tensor for name, tensor in model.state_dict().items()})
    found = refused(tmp_path, tmp_path / "fox", "--precision", "int8")
    assert "int8 is for the cells lstm, gru, gru-2014; this model's cell is elman" in found


def test_an_unknown_precision_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """The command line knows only the two precisions."""
    result = CliRunner().invoke(app, [str(checkpoint), str(tmp_path / "fox"), "--precision", "int4"])
    assert result.exit_code == EXIT_BAD_INPUT
    assert "int8" in result.stderr


def test_a_chat_template_for_a_run_without_one(checkpoint: Path, tmp_path: Path) -> None:
    """A file and its stops go into the bundle; what does not work is one sentence, before anything is written."""
    file, target = tmp_path / "chat.jinja", tmp_path / "fox"
    file.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:")
    options = ["--chat-template", str(file), "--chat-stop", "\nuser:", "--chat-stop", "\n"]
    result = CliRunner().invoke(app, [str(checkpoint), str(target), *options])
    assert result.exit_code == 0, result.output
    chat = Bundle.load(target).manifest.chat
    assert chat is not None
    assert (chat.template, chat.stops) == (file.read_text(), ("\nuser:", "\n"))
    for wrong, sentence in (
        (["--chat-stop", "x"], "--chat-stop is for --chat-template"),
        (["--chat-template", str(tmp_path / "none")], "cannot read"),
        (["--chat-template", str(file), "--chat-stop", "never"], "no stop follows"),
    ):
        result = CliRunner().invoke(app, [str(checkpoint), str(tmp_path / "dog"), *wrong])
        assert result.exit_code == EXIT_BAD_INPUT
        assert sentence in result.stderr
    assert not (tmp_path / "dog").exists()
