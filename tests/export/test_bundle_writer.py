"""A bundle that is published appears whole or not at all."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from carousel.bundle.chat import ChatFormat
from carousel.bundle.manifest import Bundle
from carousel_export.bundle_writer import publish
from carousel_export.errors import ParityFailed, TargetRefused
from carousel_training.checkpoint import TrainedModel


def accept(bundle: Bundle) -> None: ...


def reject(bundle: Bundle) -> None:
    raise ParityFailed("logits differ")


def interrupt(bundle: Bundle) -> None:
    raise KeyboardInterrupt


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_the_manifest_says_what_is_there(trained: TrainedModel, tmp_path: Path) -> None:
    """Digests match the files, every file is listed, and the facts are the model's."""
    manifest = publish(trained, tmp_path / "bundle", "fox", accept)
    files = contents(tmp_path / "bundle")
    facts = json.loads(files.pop("manifest.json"))
    assert facts["files"] == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert facts["digest"] == manifest.digest
    assert (facts["name"], facts["cell"], facts["num_layers"], facts["hidden_size"]) == ("fox", "lstm", 2, 12)
    assert facts["start_id"] == trained.tokenizer.encode("\n")[0]
    assert facts["num_parameters"] == trained.model.num_parameters
    assert facts["training"] == {"steps": 3}
    assert Bundle.load(tmp_path / "bundle").tokenizer.size == trained.tokenizer.size


def test_equal_models_make_equal_bundles(trained: TrainedModel, tmp_path: Path) -> None:
    """Writing is deterministic, so a digest identifies a model."""
    for name in ("a", "b"):
        publish(trained, tmp_path / name, "fox", accept)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize(("check", "error"), [(reject, ParityFailed), (interrupt, KeyboardInterrupt)])
def test_what_fails_its_check_never_appears(
    trained: TrainedModel, tmp_path: Path, check: object, error: type[BaseException]
) -> None:
    """After a failure or Ctrl-C nothing is under the name or beside it."""
    with pytest.raises(error):
        publish(trained, tmp_path / "bundle", "fox", check)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("check", "error"), [(reject, ParityFailed), (interrupt, KeyboardInterrupt)])
def test_an_existing_bundle_survives_a_failed_export(
    trained: TrainedModel, tmp_path: Path, check: object, error: type[BaseException]
) -> None:
    """The bundle that was there is still there, byte for byte."""
    publish(trained, tmp_path / "bundle", "old", accept)
    before = contents(tmp_path / "bundle")
    with pytest.raises(error):
        publish(trained, tmp_path / "bundle", "new", check)  # type: ignore[arg-type]
    assert contents(tmp_path / "bundle") == before
    assert list(tmp_path.iterdir()) == [tmp_path / "bundle"]


def test_an_existing_bundle_is_replaced_as_a_whole(trained: TrainedModel, tmp_path: Path) -> None:
    """No file of the old bundle stays among the new ones."""
    publish(trained, tmp_path / "bundle", "old", accept)
    (tmp_path / "bundle" / "stray").touch()
    publish(trained, tmp_path / "bundle", "new", accept)
    assert sorted(contents(tmp_path / "bundle")) == ["core.onnx", "head.onnx", "manifest.json", "tokenizer.json"]
    assert Bundle.load(tmp_path / "bundle").manifest.name == "new"
    assert list(tmp_path.iterdir()) == [tmp_path / "bundle"]


def test_a_failed_move_puts_the_old_bundle_back(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the new directory cannot take the name, the old one takes it again."""
    publish(trained, tmp_path / "bundle", "old", accept)
    rename = Path.rename

    def fail_for_the_new(source: Path, target: Path) -> Path:
        if source.name.endswith(".tmp"):
            raise OSError(5, "Input/output error")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new)
    with pytest.raises(OSError, match="Input/output"):
        publish(trained, tmp_path / "bundle", "new", accept)
    monkeypatch.undo()
    assert Bundle.load(tmp_path / "bundle").manifest.name == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "bundle"]


def test_other_peoples_files_are_left_alone(trained: TrainedModel, tmp_path: Path) -> None:
    """A directory that is not a bundle, a file and a link are refused, and nothing in them changes."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("dear")
    (tmp_path / "link").symlink_to(tmp_path / "home")
    for name, sentence in (("home", "is not a bundle"), ("file", "not a directory"), ("link", "not a directory")):
        with pytest.raises(TargetRefused, match=sentence):
            publish(trained, tmp_path / name, "fox", accept)
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "home", "link"]


def test_an_empty_directory_and_missing_parents_are_fine(trained: TrainedModel, tmp_path: Path) -> None:
    """The export makes missing parents and fills an empty directory."""
    (tmp_path / "empty").mkdir()
    for target in (tmp_path / "empty", tmp_path / "a" / "b" / "bundle"):
        publish(trained, target, "fox", accept)
        assert Bundle.load(target).manifest.name == "fox"


def test_a_chat_template_is_in_the_bundle(trained: TrainedModel, tmp_path: Path) -> None:
    """As the server loads it; without one the manifest says nothing of it."""
    chat = ChatFormat("{{ messages }}", ("\n",))
    publish(replace(trained, chat=chat), tmp_path / "bundle", "fox", accept)
    assert Bundle.load(tmp_path / "bundle").manifest.chat == chat
    publish(trained, tmp_path / "bundle", "fox", accept)
    assert Bundle.load(tmp_path / "bundle").manifest.chat is None
