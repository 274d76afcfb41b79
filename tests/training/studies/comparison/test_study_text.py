"""A text is cleaned, split and encoded once, and a search does not load the test part."""

import random
import string
from pathlib import Path
from typing import Any

import pytest

from carousel_training.errors import CorpusError
from carousel_training.settings import Settings
from carousel_training.studies.comparison.study_text import (
    load_facts,
    load_open_parts,
    load_test_part,
    load_tokenizer,
    prepare_text,
    with_official_split,
)


def with_corpus(settings: Settings, **corpus: Any) -> Settings:
    return settings.model_copy(update={"corpus": settings.corpus.model_copy(update=corpus)})


def test_parts_are_those_of_the_text(comparison_settings: Settings, text_directory: Path, words_file: Path) -> None:
    """The decoded parts together are the file, which has no repeats. The facts count characters and tokens."""
    tokenizer, facts = load_tokenizer(text_directory), load_facts(text_directory)
    train_N, valid_N = load_open_parts(text_directory)
    test_N = load_test_part(text_directory)
    text = "".join(tokenizer.decode(ids_N.tolist()) for ids_N in (train_N, valid_N, test_N))
    assert text == words_file.read_text()
    assert facts.num_tokens == {"train": len(train_N), "valid": len(valid_N), "test": len(test_N)}
    assert facts.num_characters == facts.num_tokens
    assert facts.vocabulary_size == tokenizer.size
    assert facts.is_deduplicated
    assert set(facts.num_dropped.values()) == {0}
    assert facts.sha256 == facts.raw_sha256


def test_what_repeats_is_dropped_and_said(comparison_settings: Settings, tmp_path: Path) -> None:
    """Training text in the validation part and validation text in the test part are removed."""
    known, other = "the wheel " * 2 + "is known from somewhere else already.\n", string.ascii_letters + "0123456789\n"
    for name, content in (("a", known * 2 + "train"), ("b", known + other + "valid"), ("c", other + "test")):
        (tmp_path / name).write_text(content)
    parts = {name: (tmp_path / file,) for name, file in (("train", "a"), ("valid", "b"), ("test", "c"))}
    facts = prepare_text(with_corpus(comparison_settings, text=(), **parts), tmp_path / "text")
    assert facts.num_dropped == {"train": len(known), "valid": len(known), "test": len(other)}
    assert facts.share_repeated["valid"] == pytest.approx(len(known) / (len(known) + len(other) + 5))
    assert facts.share_repeated["test"] == pytest.approx(len(other) / (len(other) + 4), abs=0.02)
    assert facts.sha256 != facts.raw_sha256


def test_a_text_of_nothing_but_repeats_stays_and_is_said_to_be_one(
    comparison_settings: Settings, tmp_path: Path
) -> None:
    """A text of repeats is used as it is, and marked as not de-duplicated."""
    (tmp_path / "verse").write_text(("the same line again and again, of more than fifty characters\n") * 40)
    facts = prepare_text(with_corpus(comparison_settings, text=(tmp_path / "verse",)), tmp_path / "text")
    assert not facts.is_deduplicated
    assert facts.share_repeated["valid"] > 0.9


def test_another_text_or_vocabulary_is_prepared_anew(
    comparison_settings: Settings, text_directory: Path, words_file: Path
) -> None:
    """An unchanged text is not prepared again."""
    written = (text_directory / "train.npy").stat().st_mtime_ns
    prepare_text(comparison_settings, text_directory)
    assert (text_directory / "train.npy").stat().st_mtime_ns == written
    rare = comparison_settings.vocabulary.model_copy(update={"min_count": 300})
    facts = prepare_text(comparison_settings.model_copy(update={"vocabulary": rare}), text_directory)
    assert (text_directory / "train.npy").stat().st_mtime_ns > written
    words_file.write_text(words_file.read_text() + "one more line\n")
    changed = prepare_text(comparison_settings.model_copy(update={"vocabulary": rare}), text_directory)
    assert changed.raw_sha256 != facts.raw_sha256


def test_a_folder_of_three_parts_is_split_as_it_is(comparison_settings: Settings, tmp_path: Path) -> None:
    """A folder with an official split keeps it. Other folders and files are split by fractions."""
    for name in ("train", "valid", "test"):
        folder = with_corpus(comparison_settings, text=(tmp_path,))
        assert with_official_split(folder) == folder
        (tmp_path / f"{name}.txt").write_text(name)
    corpus = with_official_split(folder).corpus
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text("".join(random.Random(name).choices(string.ascii_lowercase, k=300)))
    assert prepare_text(with_official_split(folder), tmp_path / "text").source == tmp_path.name
    assert (corpus.text, corpus.train, corpus.test) == ((), (tmp_path / "train.txt",), (tmp_path / "test.txt",))
    assert with_official_split(comparison_settings) == comparison_settings


def test_a_text_without_a_test_part_is_refused(comparison_settings: Settings, tmp_path: Path) -> None:
    """The sentence says which setting gives one; what was never prepared is said not to be."""
    with pytest.raises(CorpusError, match=r"corpus\.test_fraction"):
        prepare_text(with_corpus(comparison_settings, test_fraction=0.0), tmp_path / "text")
    with pytest.raises(CorpusError, match="no prepared text"):
        load_facts(tmp_path / "text")
