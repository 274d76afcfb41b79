"""The text files of a folder are read, and all others are skipped and counted."""

from pathlib import Path

import pytest

from carousel_training.errors import CorpusError
from carousel_training.text_files import Reading, TextReader


def _write(folder: Path, **files: bytes) -> Path:
    """Writes files; the name `a__b_txt` means a/b.txt."""
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def test_a_folder_is_its_texts_in_order(tmp_path: Path) -> None:
    """Plain text, Markdown, Python and logs, also rotated and in subfolders, are read in the order of paths."""
    folder = _write(tmp_path, b_txt=b"2", a_md=b"1", c_py=b"3", d__e_log=b"4", d__e_log_1=b"5", F_TXT=b"0")
    reader = TextReader(None)
    assert reader.read([folder]) == "012345"
    assert reader.reading == Reading(num_read=6)


def test_what_is_no_text_is_skipped_and_counted(tmp_path: Path) -> None:
    """A report counts other kinds by extension and empty files, and names files that are not UTF-8."""
    folder = _write(
        tmp_path,
        a_txt=b"a",
        b_png=b"\x89",
        c_png=b"\x89",
        README=b"?",
        e_txt=b"",
        f__g_txt=b"caf\xe9",
        h_log_gz=b"\x1f",
    )
    reader = TextReader(None)
    assert reader.read([folder]) == "a"
    assert reader.reading == Reading(1, 1, ((".png", 2), (".gz", 1), ("no ending", 1)), ("f/g.txt",))
    assert reader.reading.num_skipped == 6
    assert reader.reading.describe() == (
        "read 1 file; skipped 6: other kinds (.png 2, .gz 1, no ending 1), 1 empty, 1 not UTF-8 (f/g.txt)"
    )


def test_hidden_files_and_folders_are_not_looked_at(tmp_path: Path) -> None:
    """Hidden files and folders are neither read nor counted. A folder with a hidden folder in its own path is read."""
    folder = _write(tmp_path / ".texts", a_txt=b"a")
    (folder / ".git").mkdir()
    (folder / ".git" / "b.txt").write_text("b")
    (folder / ".c.txt").write_text("c")
    reader = TextReader(None)
    assert reader.read([folder]) == "a"
    assert reader.reading == Reading(num_read=1)


def test_a_pattern_chooses_instead_of_endings(tmp_path: Path) -> None:
    """A pattern chooses the files. Other files are not counted; empty and undecodable ones are."""
    folder = _write(tmp_path, a_rst=b"a", b_txt=b"b", c_rst=b"", d_rst=b"\xff")
    reader = TextReader("*.rst")
    assert reader.read([folder]) == "a"
    assert reader.reading == Reading(1, 1, (), ("d.rst",))


def test_a_named_file_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    """A named file of any kind is read, and is an error when it is empty, not UTF-8 or missing."""
    folder = _write(tmp_path, a_dat=b"a", b_txt=b"", c_txt=b"caf\xe9")
    assert TextReader(None).read([folder / "a.dat"]) == "a"
    for name, sentence in (("b.txt", "is empty"), ("c.txt", "is not UTF-8: byte 3 is 0xe9"), ("d.txt", "cannot read")):
        with pytest.raises(CorpusError, match=sentence):
            TextReader(None).read([folder / name])


def test_a_folder_without_text_is_an_error_that_says_why(tmp_path: Path) -> None:
    """The error says what was read and what was skipped, also after another folder with text."""
    full, other = _write(tmp_path / "full", a_txt=b"a"), _write(tmp_path / "other", a_png=b"\x89")
    with pytest.raises(
        CorpusError, match=r"other holds no text: it is sought in .txt, .md, .py and .log files; skipped"
    ):
        TextReader(None).read([full, other])
    with pytest.raises(CorpusError, match=r"other holds no text: no file matches \*\*/\*.txt$"):
        TextReader("**/*.txt").read([other])


@pytest.mark.parametrize(
    ("reading", "sentence"),
    [
        (Reading(1), ""),
        (Reading(2), "read 2 files; skipped none"),
        (Reading(1200, 0, ((".pdf", 1000),)), "read 1,200 files; skipped 1,000: other kinds (.pdf 1,000)"),
        (Reading(1, 0, (), tuple("abcd")), "read 1 file; skipped 4: 4 not UTF-8 (a, b, c, ...)"),
    ],
)
def test_it_is_told_in_a_line(reading: Reading, sentence: str) -> None:
    """The line is empty for a single file, and names up to three files."""
    assert reading.describe() == sentence
