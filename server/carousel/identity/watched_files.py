"""Files that are read again when they change. What was read last and was good stays in use."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from carousel.errors import SettingsInvalid

_LOOK_SECONDS = 1.0
_MAX_MISSED = 10  # looks at files that are gone, before that is an error: many programs replace a file by removing it

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
        self._num_missed = 0  # looks in a row at which a file was gone or could not be read
        try:
            self._seen = self._marks()
            self.current = read()
        except (OSError, ValueError) as error:
            raise SettingsInvalid(f"{name}: {_explain(error)}") from error

    def __repr__(self) -> str:
        return f"WatchedFiles({self._name})"

    def look(self) -> bool:
        """Reads the files if one has changed since the last look. Returns whether the content is another now. A bad
        content is logged and counted once. Files that cannot be read are tried again at each look, and logged and
        counted once, when that has lasted for some."""
        try:
            marks = self._marks()
            if marks == self._seen:
                self._num_missed = 0
                return False
            content = self._read()
        except OSError as error:
            self._num_missed += 1
            if self._num_missed == _MAX_MISSED:
                self._refuse(error)
            return False
        except ValueError as error:
            self._seen, self._num_missed = marks, 0
            self._refuse(error)
            return False
        self.current, self._seen, self._num_missed = content, marks, 0
        self._log.info("files read again", setting=self._name)
        self._reloaded(self._name, True)
        return True

    def _refuse(self, error: OSError | ValueError) -> None:
        self._log.error("files refused; the content from before stays", setting=self._name, why=_explain(error))
        self._reloaded(self._name, False)

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
