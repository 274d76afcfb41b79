"""Writes the blocking client, and its tests, from the asyncio ones: `make client`."""

import shutil
import subprocess
import sys
from pathlib import Path

import unasync

FOLDERS = (Path("server/carousel/client"), Path("tests/server/client"))
WORDS = {  # beside unasync's own list: whole names and whole strings
    "AsyncClient": "Client",
    "AsyncPredictor": "Predictor",
    "AsyncSession": "Session",
    "AsyncSessionPredictor": "SessionPredictor",
    "AsyncStream": "Stream",
    "_async": "_sync",
    "aio": "blocking",
    "anext": "next",
}
RULE = unasync.Rule("/_async/", "/_sync/", WORDS)


def write_folder(folder: Path) -> Path:
    """Replaces `_sync` with a translation of `_async`. Returns the folder."""
    made = folder / "_sync"
    shutil.rmtree(made, ignore_errors=True)
    sources = sorted((folder / "_async").rglob("*.py"))
    unasync.unasync_files([str(source) for source in sources], [RULE])
    for source in sources:
        twin = made / source.relative_to(folder / "_async")
        if text := twin.read_text():
            twin.write_text(f"# Generated from {source} by `make client`: change that file, not this one.\n{text}")
    return made


def tidy(folders: list[Path]) -> None:
    """Sorts and formats: names sort differently now, and lines are shorter."""
    ruff = [sys.executable, "-m", "ruff"]
    subprocess.run([*ruff, "check", "--quiet", "--fix-only", *folders], check=True)
    subprocess.run([*ruff, "format", "--quiet", *folders], check=True)


if __name__ == "__main__":
    tidy([write_folder(folder) for folder in FOLDERS])
