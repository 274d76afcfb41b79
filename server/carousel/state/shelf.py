"""The sessions of one owner in memory: by last use, and in the order in which they were made."""

import bisect
import collections
import itertools
import operator
from collections.abc import Iterator
from typing import Any

from carousel.state.store import Parts, Row

Key = tuple[float, str]  # (created_at, id): this very object, so that a namesake is another one
_ROW_BYTES = 700  # a row, its keys and its places in the indices, measured
_PAGE = 512

# A row's values but its owner, a key in place of id and creation, then part name, part, part name, part ...: flat, for
# a dictionary alone would cost 184 bytes a session, and of plain values alone, for the collector forgets such a tuple:
# else it would walk a million rows, for most of a second in which nothing else runs.
Entry = tuple[Any, ...]
KEY, INCARNATION, REVISION, POSITION, UPDATED_AT, EXPIRES_AT, _FIRST_PART = range(7)


class Shelf:
    """Entries by session id. Whoever changes `entries` moves what was used to the end."""

    __slots__ = ("_pages", "entries")

    def __init__(self) -> None:
        self.entries: collections.OrderedDict[str, Entry] = collections.OrderedDict()  # by last use
        # Sorted keys; pages are of bounded length, so that to remove one moves few. None while there was but one entry.
        self._pages: list[list[Key]] | None = None

    def add(self, entry: Entry) -> None:
        if self._pages is None and self.entries:
            self._pages = [[only[KEY] for only in self.entries.values()]]
        self.entries[entry[KEY][1]] = entry
        if self._pages is not None:
            self._insert(self._pages, entry[KEY])

    def remove(self, session_id: str) -> Entry:
        """The last one, too; then the shelf is to be thrown away."""
        entry = self.entries.pop(session_id)
        if self._pages is not None:
            number = _find_page(self._pages, entry[KEY])
            page = self._pages[number]
            del page[bisect.bisect_left(page, entry[KEY])]
            if not page:
                del self._pages[number]
        return entry

    def walk_after(self, key: Key) -> Iterator[str]:
        """Ids in order of (created_at, id), from the first one after the key. Nothing may change meanwhile."""
        pages = self._pages if self._pages is not None else [[entry[KEY] for entry in self.entries.values()]]
        for page in itertools.islice(pages, _find_page(pages, key), None):
            for _, session_id in itertools.islice(page, bisect.bisect_right(page, key), None):
                yield session_id

    def _insert(self, pages: list[list[Key]], key: Key) -> None:
        number = _find_page(pages, key)
        page = pages[number]
        if len(page) < _PAGE:
            bisect.insort(page, key)
        elif number == len(pages) - 1 and key > page[-1]:
            pages.append([key])
        else:
            bisect.insort(page, key)
            pages[number : number + 1] = [page[: _PAGE // 2], page[_PAGE // 2 :]]


def _find_page(pages: list[list[Key]], key: Key) -> int:
    """That of the key, or where it would be. No page is empty."""
    return max(0, bisect.bisect_right(pages, key, key=operator.itemgetter(0)) - 1)


def make_entry(row: Row, key: Key, parts: Parts) -> Entry:
    fields = (key, row.incarnation, row.revision, row.position, row.updated_at, row.expires_at)
    return (*fields, *itertools.chain.from_iterable(parts.items()))


def row_of(owner: str, entry: Entry) -> Row:
    key, incarnation, revision, position, updated_at, expires_at = entry[:_FIRST_PART]
    return Row(key[1], owner, incarnation, revision, position, key[0], updated_at, expires_at)


def parts_of(entry: Entry) -> dict[str, bytes]:
    return dict(zip(entry[_FIRST_PART::2], entry[_FIRST_PART + 1 :: 2], strict=True))


def weigh(entry: Entry) -> int:
    return _ROW_BYTES + sum(map(len, entry[_FIRST_PART + 1 :: 2]))


def weigh_parts(parts: Parts) -> int:
    """What the entry would weigh."""
    return _ROW_BYTES + sum(map(len, parts.values()))
