"""The recipes of the project are valid."""

from pathlib import Path

import pytest
import torch

from carousel_training.model import ModelConfig, RecurrentLM
from carousel_training.settings import Settings

RECIPES = sorted((Path(__file__).parents[2] / "training" / "recipes").glob("*.toml"))
WIKITEXT_WORDS = 33_278


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_holds_known_settings_and_no_paths(recipe: Path) -> None:
    """Every recipe is read without complaint, leaves the text to the command line, and says in a comment what it is."""
    settings = Settings.load(recipe)
    assert settings.corpus == Settings().corpus
    assert recipe.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_for_wikitext_knows_all_its_words(recipe: Path) -> None:
    """The bound on words includes all of them."""
    vocabulary = Settings.load(recipe).vocabulary
    assert vocabulary.kind != "word" or vocabulary.max_words == WIKITEXT_WORDS


def test_the_gpu_recipe_is_as_large_as_it_says() -> None:
    """The AWD-LSTM has fewer than 30 million parameters besides the embedding, as the published one."""
    settings = Settings.load(next(recipe for recipe in RECIPES if recipe.stem == "wikitext2-awd-lstm-gpu"))
    with torch.device("meta"):
        model = RecurrentLM(ModelConfig.from_settings(settings.model, WIKITEXT_WORDS))
    embedding = model.embedding.weight.numel()
    assert embedding == WIKITEXT_WORDS * 400
    assert 25_000_000 < model.num_parameters - embedding < 30_000_000
