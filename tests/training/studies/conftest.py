"""The tests of the studies share settings of runs that take a tenth of a second."""

from typing import Any

import pytest

from carousel_training.settings import Settings


@pytest.fixture
def study_settings(tiny_facts: dict[str, Any]) -> Settings:
    """Returns settings for a few steps of one small layer, evaluated only at the end."""
    facts = tiny_facts | {
        "model": {"hidden_size": 8, "embedding_size": 8, "dropout": 0.0},
        "budget": {"max_steps": 8},
        "evaluation": {"every_steps": 1000, "log_every": 2, "num_lanes": 3, "sample_tokens": 0},
    }
    return Settings.parse(facts)
