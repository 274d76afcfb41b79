"""Figures on disk are plain, whole JSON, with null for numbers that are not finite."""

import json
import math
from pathlib import Path

import pytest

from carousel_training.errors import TrainingError
from carousel_training.studies.results import load_figures, make_directory, save_figures


def test_what_is_not_a_number_becomes_null(tmp_path: Path) -> None:
    """A diverged run leaves standard JSON, with null for the loss."""
    save_figures(tmp_path / "f.json", {"nats": math.nan, 3: (1.5, math.inf)})
    assert json.loads((tmp_path / "f.json").read_text()) == {"nats": None, "3": [1.5, None]}


@pytest.mark.parametrize("content", [None, "", "{", "[1]"])
def test_what_was_not_saved_here_counts_as_absent(tmp_path: Path, content: str | None) -> None:
    """A missing, half-written or foreign file is no result."""
    if content is not None:
        (tmp_path / "f.json").write_text(content)
    assert load_figures(tmp_path / "f.json") is None


def test_a_directory_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    """A file in the way is a TrainingError that names it."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(TrainingError, match="taken"):
        make_directory(tmp_path / "taken")
