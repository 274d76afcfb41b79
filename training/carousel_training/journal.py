"""The log of a run: one JSON object per line, of the kinds `train` and `evaluation`. It does not know the keys'
meaning.

A checkpoint has the length of the log. Resuming cuts the log there, so that nothing is logged twice.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Journal:
    """Appends records to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def num_bytes(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def append(self, record: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def truncate(self, num_bytes: int) -> None:
        """Removes what was written after the log was `num_bytes` long."""
        if self.num_bytes > num_bytes:
            os.truncate(self.path, num_bytes)

    def records(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").split("\n") if line]
