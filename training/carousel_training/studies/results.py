"""This module reads and writes the figures of a study as JSON files. It does not know what the figures mean."""

import json
import math
from pathlib import Path
from typing import Any

from carousel_training.checkpoint import write_atomically
from carousel_training.errors import TrainingError


def make_directory(directory: Path) -> None:
    """Makes a directory. Raises TrainingError when the path is a file or cannot be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"cannot make {directory}: {error.strerror or error}") from error


def save_figures(path: Path, figures: Any) -> None:
    """Writes plain values as JSON, atomically. A number that is not finite, such as a diverged loss, becomes null."""
    write_atomically(path, (json.dumps(plain_figures(figures), indent=1, allow_nan=False) + "\n").encode())


def load_figures(path: Path) -> dict[str, Any] | None:
    """Loads figures, or returns None if the file is missing or does not hold what `save_figures` writes."""
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return figures if isinstance(figures, dict) else None


def plain_figures(value: Any) -> Any:
    """Converts to values that JSON can hold: string keys, lists, and None for numbers that are not finite."""
    if isinstance(value, dict):
        return {str(key): plain_figures(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_figures(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
