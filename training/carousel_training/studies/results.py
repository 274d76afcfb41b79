"""Where a study leaves its figures: JSON files that are written whole. It knows nothing of what the figures mean."""

import json
import math
from pathlib import Path
from typing import Any

from carousel_training.checkpoint import write_atomically
from carousel_training.errors import TrainingError


def make_directory(directory: Path) -> None:
    """Raises TrainingError when the place is taken by a file or cannot be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"cannot make {directory}: {error.strerror or error}") from error


def save_figures(path: Path, figures: Any) -> None:
    """Plain values as JSON. What is not a number, such as the loss of a run that diverged, becomes null."""
    write_atomically(path, (json.dumps(plain_figures(figures), indent=1, allow_nan=False) + "\n").encode())


def load_figures(path: Path) -> dict[str, Any] | None:
    """None where there is no such file, or where it does not hold what `save_figures` writes."""
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return figures if isinstance(figures, dict) else None


def plain_figures(value: Any) -> Any:
    """Words as keys, lists, and None for what is not a number: what a JSON can hold."""
    if isinstance(value, dict):
        return {str(key): plain_figures(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_figures(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
