"""The log file."""

from pathlib import Path

from carousel_training.journal import Journal


def test_records_come_back_in_order(tmp_path: Path) -> None:
    """Each record is a line, line ends and other scripts inside it included."""
    journal = Journal(tmp_path / "log.jsonl")
    assert journal.records() == []
    for record in ({"a": 1}, {"text": "zwei\nlinien \N{SNOWMAN}\x85"}):
        journal.append(record)
    assert journal.records() == [{"a": 1}, {"text": "zwei\nlinien \N{SNOWMAN}\x85"}]


def test_truncating_forgets_what_came_after(tmp_path: Path) -> None:
    """Cut at a remembered length, the log is as it was then; a longer length cuts nothing."""
    journal = Journal(tmp_path / "log.jsonl")
    journal.append({"a": 1})
    length = journal.num_bytes
    journal.append({"b": 2})
    journal.truncate(10_000)
    assert len(journal.records()) == 2
    journal.truncate(length)
    assert journal.records() == [{"a": 1}]
