"""Writes and reads a study's figures: JSON files that appear as a whole. It knows nothing of the figures' meaning."""

import json
import math
from pathlib import Path
from typing import Any

from carousel_training.checkpoint import write_atomically
from carousel_training.errors import TrainingError


def make_directory(directory: Path) -> None:
    """Raises TrainingError when the path is a file or cannot be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"cannot make {directory}: {error.strerror or error}") from error


def save_figures(path: Path, figures: Any) -> None:
    """Writes plain values as JSON. A value that is not a number, such as the loss of a diverged run, becomes null."""
    write_atomically(path, (json.dumps(plain_figures(figures), indent=1, allow_nan=False) + "\n").encode())


def load_figures(path: Path) -> dict[str, Any] | None:
    """Returns None without such a file, or for a file that `save_figures` did not write."""
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return figures if isinstance(figures, dict) else None


def plain_figures(value: Any) -> Any:
    """Converts to what JSON can hold: words as keys, lists, and None for values that are not numbers."""
    if isinstance(value, dict):
        return {str(key): plain_figures(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_figures(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
