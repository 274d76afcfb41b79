"""The tests of comparisons share a text without repeats, plans of a few steps, and an executor in this process."""

import random
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

from carousel_training.settings import Settings
from carousel_training.studies.comparison.jobs import ReadingPlan
from carousel_training.studies.comparison.plans import StudyPlan
from carousel_training.studies.comparison.study_text import prepare_text

WORDS = [
    "wheel",
    "turns",
    "state",
    "round",
    "never",
    "stops",
    "river",
    "stone",
    "light",
    "walks",
    "under",
    "over",
    "of",
]
TINY_READING = ReadingPlan(num_lanes=2, valid_tokens=100, test_tokens=120, block=25)
TINY_PLAN = StudyPlan(
    "tiny", 2, (0.5, 1.0), (1, 2), num_seeds=2, has_twin=True, hours=None, tokens=2 * 4 * 32, reading=TINY_READING
)


class InlineExecutor(Executor):
    """Runs work at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def make_words(num_lines: int, seed: int = 1) -> str:
    chance = random.Random(seed)
    return "".join(" ".join(chance.choices(WORDS, k=chance.randint(4, 12))) + ".\n" for _ in range(num_lines))


@pytest.fixture
def words_file(tmp_path: Path) -> Path:
    """Writes about 16,000 characters without a repeat of 50."""
    path = tmp_path / "words.txt"
    path.write_text(make_words(400), encoding="utf-8")
    return path


@pytest.fixture
def comparison_settings(words_file: Path) -> Settings:
    """Returns all settings but cell and width: steps of 32 tokens, one layer, characters."""
    return Settings.parse(
        {
            "corpus": {"text": [str(words_file)], "test_fraction": 0.1},
            "vocabulary": {"kind": "character"},
            "model": {"hidden_size": 8, "embedding_size": 8, "dropout": 0.1, "tied": False},
            "batch": {"num_lanes": 2, "segment": 16},
            "budget": {"max_steps": 8},
            "compute": {"device": "cpu", "precision": "float32", "threads": 1},
        }
    )


@pytest.fixture
def text_directory(comparison_settings: Settings, tmp_path: Path) -> Path:
    """Returns the directory of the prepared text."""
    directory = tmp_path / "text"
    prepare_text(comparison_settings, directory)
    return directory
