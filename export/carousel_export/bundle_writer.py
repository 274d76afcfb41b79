"""Writes a bundle beside its target directory, has it checked, and then moves it to the target.

After a failure the target is as it was before, and no partial bundle stays behind.
"""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from carousel.bundle.manifest import CORE_FILE, HEAD_FILE, Bundle, Manifest, file_digest
from carousel.bundle.manifest import FILE_NAME as MANIFEST_FILE
from carousel.bundle.tokenizer import FILE_NAME as TOKENIZER_FILE
from carousel_export.errors import TargetRefused
from carousel_export.graphs import build_core, build_head
from carousel_export.precision import Precision
from carousel_training.checkpoint import TrainedModel


def publish(
    trained: TrainedModel,
    target: Path,
    name: str,
    check: Callable[[Bundle], None],
    precision: Precision = Precision.FLOAT32,
) -> Manifest:
    """Writes a bundle called `name` to `target` unless `check` raises. Replaces an earlier bundle as a whole.

    `check` gets the bundle as the server would load it. Raises TargetRefused when the target is not a bundle,
    PrecisionRefused when the cell has no such graphs.
    """
    refuse_foreign(target)
    with _workplace(target) as workplace:
        manifest = write_files(trained, workplace, name, precision)
        check(Bundle.load(workplace))
        _sync(workplace)
        _move(workplace, target)
    return manifest


def refuse_foreign(target: Path) -> None:
    """Raises TargetRefused unless the target is missing, empty or a bundle."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise TargetRefused(f"{target} is not a directory")
    if target.is_dir() and any(target.iterdir()) and not (target / MANIFEST_FILE).is_file():
        raise TargetRefused(f"{target} holds files and is not a bundle; it stays as it is")


def write_files(
    trained: TrainedModel, directory: Path, name: str, precision: Precision = Precision.FLOAT32
) -> Manifest:
    """Writes all files of the bundle, the manifest last. Raises PrecisionRefused."""
    model = trained.model
    (directory / CORE_FILE).write_bytes(build_core(model, precision).SerializeToString())
    (directory / HEAD_FILE).write_bytes(build_head(model, precision).SerializeToString())
    trained.tokenizer.save(directory / TOKENIZER_FILE)
    manifest = Manifest(
        name=name,
        cell=model.config.cell,
        block=model.config.block,
        num_layers=model.config.num_layers,
        hidden_size=model.config.hidden_size,
        vocabulary_size=model.config.vocabulary_size,
        num_parameters=model.num_parameters,
        precision=str(precision),
        tokenizer_kind=trained.tokenizer.kind,
        start_id=trained.tokenizer.start_id,
        state=model.state_layout,
        files={file: file_digest(directory / file) for file in (CORE_FILE, HEAD_FILE, TOKENIZER_FILE)},
        training=trained.training,
        chat=trained.chat,
    )
    manifest.save(directory)
    return manifest


@contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """Makes a directory beside the target, on the same file system, and removes it at the end, also after Ctrl-C."""
    workplace = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        workplace.mkdir(parents=True)
    except OSError as error:
        raise TargetRefused(f"cannot write beside {target}: {error.strerror or error}") from error
    try:
        yield workplace
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def _move(workplace: Path, target: Path) -> None:
    """Moves the new directory to the target. Renames an old one first, and renames it back on failure.

    A directory cannot replace a full one in a single step.
    """
    if not target.exists():
        workplace.rename(target)
        return
    aside = workplace.with_name(f"{workplace.name}.old")
    target.rename(aside)
    try:
        workplace.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    shutil.rmtree(aside)


def _sync(directory: Path) -> None:
    """Writes bytes and names through to the disk, before the bundle gets its name."""
    for path in [*directory.iterdir(), directory]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
