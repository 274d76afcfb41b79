"""Options of the studies are parsed, and wrong ones refused."""

from pathlib import Path

import pytest

from carousel_training.cells.registry import CELLS
from carousel_training.errors import CorpusError, SettingsError
from carousel_training.studies.options import (
    choose,
    choose_cells,
    parse_gaps,
    read_text,
    study_settings,
)


def test_all_cells_are_meant_where_none_is_named() -> None:
    """All cells come in the registry's order, named ones in the given order, each once."""
    assert choose_cells(None) == tuple(CELLS)
    assert choose_cells("gru, lstm,gru") == ("gru", "lstm")


@pytest.mark.parametrize(("given", "named"), [("lstm,gruu", "gruu"), ("", "none given")])
def test_an_unknown_name_is_refused_with_the_known_ones(given: str, named: str) -> None:
    """The sentence names the wrong value and the choices."""
    with pytest.raises(SettingsError, match=f"unknown cell .*{named}.*elman"):
        choose(given, CELLS, "cell")


def test_gaps_are_numbers() -> None:
    """Gaps are whole numbers, and the error quotes anything else."""
    assert parse_gaps("2,8") == (2, 8)
    with pytest.raises(SettingsError, match="2,x"):
        parse_gaps("2,x")


def test_a_text_comes_from_one_place(tmp_path: Path) -> None:
    """The text comes from the argument or the file. Both, neither or an unreadable file are refused."""
    (tmp_path / "t.txt").write_text("hello", encoding="utf-8")
    assert read_text("hi", None) == "hi"
    assert read_text(None, tmp_path / "t.txt") == "hello"
    for text, file in (("hi", tmp_path / "t.txt"), (None, None)):
        with pytest.raises(SettingsError, match="either the text"):
            read_text(text, file)
    with pytest.raises(CorpusError, match="absent"):
        read_text(None, tmp_path / "absent")


def test_overrides_win_over_a_study_s_own_settings() -> None:
    """Defaults come first, then --text, then --set."""
    settings = study_settings({"model.hidden_size": 9, "seed": 4}, [Path("it's.txt")], ["model.hidden_size=11"])
    assert (settings.model.hidden_size, settings.seed) == (11, 4)
    assert settings.corpus.text == (Path("it's.txt"),)
