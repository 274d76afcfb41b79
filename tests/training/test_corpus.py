"""A corpus is read and split as its settings say, and bad files are refused."""

from pathlib import Path

import pytest

from carousel_training.corpus import read_corpus
from carousel_training.errors import CorpusError
from carousel_training.repeats import share_repeated
from carousel_training.settings import CorpusSettings


def test_the_split_is_a_cut_at_fixed_fractions(tmp_path: Path) -> None:
    """First 80 % for training, then 10 % validation, then 10 % test, the same on every reading."""
    path = tmp_path / "digits.txt"
    path.write_text("0123456789" * 10)
    settings = CorpusSettings(text=(path,), valid_fraction=0.1, test_fraction=0.1)
    corpus = read_corpus(settings)
    assert (corpus.train, corpus.valid, corpus.test) == ("0123456789" * 8, "0123456789", "0123456789")
    assert read_corpus(settings) == corpus
    assert read_corpus(settings).digest == corpus.digest


def test_the_digest_knows_where_the_cut_is(tmp_path: Path) -> None:
    """The same text with another split is another corpus."""
    path = tmp_path / "digits.txt"
    path.write_text("0123456789" * 10)
    digests = {read_corpus(CorpusSettings(text=(path,), valid_fraction=part)).digest for part in (0.1, 0.2)}
    assert len(digests) == 2


def test_given_files_are_taken_as_they_are(tmp_path: Path) -> None:
    """Train, valid and test files are neither mixed nor cut, and their line ends stay."""
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_bytes(f"{name}\r\n".encode())
    corpus = read_corpus(
        CorpusSettings(train=(tmp_path / "train.txt",), valid=(tmp_path / "valid.txt",), test=(tmp_path / "test.txt",))
    )
    assert (corpus.train, corpus.valid, corpus.test) == ("train\r\n", "valid\r\n", "test\r\n")


def test_a_folder_is_its_matching_files_in_order(tmp_path: Path) -> None:
    """The files of a folder are joined in the order of their paths. Other files are left out."""
    (tmp_path / "b").mkdir()
    for name, text in (("b/1.txt", "second."), ("a.txt", "first..."), ("c.bin", "\x00")):
        (tmp_path / name).write_text(text)
    corpus = read_corpus(CorpusSettings(text=(tmp_path,), valid_fraction=0.2))
    assert corpus.train + corpus.valid == "first...second."
    assert corpus.reading.describe() == "read 2 files; skipped 1: other kinds (.bin 1)"


def test_the_default_is_a_text_of_the_package() -> None:
    """Without any path there is half a megabyte of English to train on: the same under every Python, by its digest, and
    none of its validation part stands in its training part."""
    corpus = read_corpus(CorpusSettings())
    assert corpus.source == "grimm.txt"
    assert corpus.digest == "96df3127cbec32f3b93b41ff8c783fb7208bf64cf934e716352453b265b0e927"
    assert len(corpus.train) > 400_000
    assert share_repeated(corpus.train, corpus.valid) == 0.0


def test_repeats_are_dropped_before_the_split(tmp_path: Path) -> None:
    """With drop_repeats no line is in both parts. Without it the text stays as it is."""
    lines = [
        f"line {number} says something of its own, {number**5} times and more, to whom it may concern\n"
        for number in range(9)
    ]
    (tmp_path / "twice.txt").write_text("".join(lines + lines))
    plain, dropped = (
        read_corpus(CorpusSettings(text=(tmp_path / "twice.txt",), valid_fraction=0.5, drop_repeats=drops))
        for drops in (False, True)
    )
    assert plain.train == plain.valid == "".join(lines)
    assert dropped.train + dropped.valid == "".join(lines)


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    """An empty corpus is an error, not a run over nothing."""
    (tmp_path / "empty.txt").touch()
    with pytest.raises(CorpusError, match="empty.txt is empty"):
        read_corpus(CorpusSettings(text=(tmp_path / "empty.txt",)))


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    """The error says which file and which byte."""
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    with pytest.raises(CorpusError, match="latin.txt is not UTF-8: byte 3 is 0xe9"):
        read_corpus(CorpusSettings(text=(tmp_path / "latin.txt",)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A missing path is an error with the path and the reason."""
    with pytest.raises(CorpusError, match="cannot read .*absent.txt: No such file"):
        read_corpus(CorpusSettings(text=(tmp_path / "absent.txt",)))


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without permission is an error with the path, whoever runs the test."""

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(CorpusError, match="cannot read .*secret.txt: Permission denied"):
        read_corpus(CorpusSettings(text=(tmp_path / "secret.txt",)))


def test_a_folder_without_texts_is_named(tmp_path: Path) -> None:
    """A folder without text is an error with the folder and the kinds of file that are read."""
    with pytest.raises(CorpusError, match="holds no text: it is sought in .txt, .md, .py and .log files"):
        read_corpus(CorpusSettings(text=(tmp_path,)))


def test_a_text_too_short_to_split_is_named(tmp_path: Path) -> None:
    """A text of one character cannot be split."""
    (tmp_path / "short.txt").write_text("a")
    with pytest.raises(CorpusError, match="short.txt is too short to split"):
        read_corpus(CorpusSettings(text=(tmp_path / "short.txt",)))
