"""The log keeps every record."""

from pathlib import Path

from carousel_training.journal import Journal


def test_records_come_back_in_order(tmp_path: Path) -> None:
    """Each record is one line, even if it contains line ends or other scripts."""
    journal = Journal(tmp_path / "log.jsonl")
    assert journal.records() == []
    for record in ({"a": 1}, {"text": "zwei\nlinien \N{SNOWMAN}\x85"}):
        journal.append(record)
    assert journal.records() == [{"a": 1}, {"text": "zwei\nlinien \N{SNOWMAN}\x85"}]


def test_truncating_forgets_what_came_after(tmp_path: Path) -> None:
    """Truncated to a stored length, the log is as it was then. A longer length changes nothing."""
    journal = Journal(tmp_path / "log.jsonl")
    journal.append({"a": 1})
    length = journal.num_bytes
    journal.append({"b": 2})
    journal.truncate(10_000)
    assert len(journal.records()) == 2
    journal.truncate(length)
    assert journal.records() == [{"a": 1}]
