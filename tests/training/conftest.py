"""The training tests share one thread, and settings of a run that takes a second."""

from pathlib import Path
from typing import Any

import pytest
from tests.torch_fixtures import one_thread as one_thread

from carousel_training.settings import Settings

VERSE = "the wheel turns and turns and never stops, the state goes round and round with it.\n"


@pytest.fixture
def verse_file(tmp_path: Path) -> Path:
    """Writes a text of a few thousand characters."""
    path = tmp_path / "verse.txt"
    path.write_text("".join(f"{number}: {VERSE}" for number in range(60)), encoding="utf-8")
    return path


@pytest.fixture
def tiny_facts(verse_file: Path) -> dict[str, Any]:
    """Returns the settings of a tiny run as plain values, which a test can change and parse."""
    return {
        "seed": 7,
        "corpus": {"text": [str(verse_file)]},
        "vocabulary": {"kind": "character"},
        "model": {"hidden_size": 16, "embedding_size": 12, "num_layers": 2, "dropout": 0.3},
        "batch": {"num_lanes": 4, "segment": 16},
        "budget": {"max_steps": 150},
        "evaluation": {"every_steps": 40, "log_every": 7, "num_lanes": 3, "sample_tokens": 8},
        "compute": {"device": "cpu", "precision": "float32", "threads": 1},
    }


@pytest.fixture
def tiny_settings(tiny_facts: dict[str, Any]) -> Settings:
    return Settings.parse(tiny_facts)
