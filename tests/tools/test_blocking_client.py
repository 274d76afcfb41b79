"""The blocking twin is what the asyncio code says, and nothing else."""

from pathlib import Path

from tools.blocking_client import write_folder


def test_a_twin_has_no_file_that_its_source_has_no_more(tmp_path: Path) -> None:
    """A file that was removed or renamed there goes here, too."""
    for name in ("_async", "_sync"):
        (tmp_path / name).mkdir()
    (tmp_path / "_async" / "here.py").write_text("async def ask() -> None:\n    await nobody()\n")
    (tmp_path / "_sync" / "gone.py").write_text("")
    made = write_folder(tmp_path)
    assert made == tmp_path / "_sync"
    assert [path.name for path in made.iterdir()] == ["here.py"]
    assert (made / "here.py").read_text().endswith("def ask() -> None:\n    nobody()\n")
