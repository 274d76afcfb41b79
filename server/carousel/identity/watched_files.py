"""Files that are read again when they change. What was read last and was good stays in use."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from carousel.errors import SettingsInvalid

_LOOK_SECONDS = 1.0

Content = TypeVar("Content")
_Marks = tuple[tuple[int, int, int, int], ...]  # of each file: last changes of content and rights, size, number


class WatchedFiles(Generic[Content]):
    """The content of some files that belong together. Any thread may read `current`.

    `read` makes the content; it raises ValueError or OSError where a file is bad. `reloaded` is called after each
    attempt but the first, with the name and whether the new content is in use.
    """

    def __init__(
        self, name: str, paths: Sequence[Path], read: Callable[[], Content], reloaded: Callable[[str, bool], None]
    ) -> None:
        """`name` is the setting that names the files. Raises SettingsInvalid where they are bad."""
        self._name, self._paths, self._read, self._reloaded = name, paths, read, reloaded
        self._log = structlog.get_logger("carousel.files")
        try:
            self._seen = self._marks()
            self.current = read()
        except (OSError, ValueError) as error:
            raise SettingsInvalid(f"{name}: {_explain(error)}") from error

    def __repr__(self) -> str:
        return f"WatchedFiles({self._name})"

    def look(self) -> bool:
        """Reads the files if one has changed since the last look. Returns whether the content is another now; a bad
        content is logged and counted once."""
        try:
            marks = self._marks()
        except OSError:
            return False  # somebody is replacing it, or it is gone
        if marks == self._seen:
            return False
        self._seen = marks
        try:
            self.current = self._read()
        except (OSError, ValueError) as error:
            self._log.error("files refused; the content from before stays", setting=self._name, why=_explain(error))
            self._reloaded(self._name, False)
            return False
        self._log.info("files read again", setting=self._name)
        self._reloaded(self._name, True)
        return True

    async def watch(self, changed: Callable[[], None] = lambda: None, pause_seconds: float = _LOOK_SECONDS) -> None:
        """Looks again and again until it is cancelled, and calls `changed` after each change. A thread reads: a file
        may lie on a slow disk."""
        while True:
            await asyncio.sleep(pause_seconds)
            if await asyncio.to_thread(self.look):
                changed()

    def _marks(self) -> _Marks:
        """They are taken before the files are read, so that the next look sees a change in between."""
        stats = [path.stat() for path in self._paths]
        return tuple((stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino) for stat in stats)


def _explain(error: OSError | ValueError) -> str:
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
