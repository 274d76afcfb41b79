"""The sessions of one owner in memory: by last use, and in order of creation."""

import bisect
import collections
import itertools
import operator
from collections.abc import Iterator
from typing import Any

from carousel.state.store import Parts, Row

Key = tuple[float, str]  # (created_at, id): compared as an object, because a namesake is a different session
_ROW_BYTES = 700  # a row, its keys and its index entries, measured
_PAGE = 512

# A row's values without its owner, a key instead of id and creation time, then part name, part, part name, part ... The
# tuple is flat, because a dictionary alone would cost 184 bytes a session. It has only plain values, because the
# garbage collector then ignores it: otherwise it would walk a million rows and stop everything else for most of a
# second.
Entry = tuple[Any, ...]
KEY, INCARNATION, REVISION, POSITION, UPDATED_AT, EXPIRES_AT, _FIRST_PART = range(7)


class Shelf:
    """Entries by session id. A caller that changes `entries` moves used ones to the end."""

    __slots__ = ("_pages", "entries")

    def __init__(self) -> None:
        self.entries: collections.OrderedDict[str, Entry] = collections.OrderedDict()  # by last use
        # Sorted keys in pages of bounded length, so that a removal moves few keys. None while there has been only one
        # entry.
        self._pages: list[list[Key]] | None = None

    def add(self, entry: Entry) -> None:
        if self._pages is None and self.entries:
            self._pages = [[only[KEY] for only in self.entries.values()]]
        self.entries[entry[KEY][1]] = entry
        if self._pages is not None:
            self._insert(self._pages, entry[KEY])

    def remove(self, session_id: str) -> Entry:
        """Removes the entry, even the last one; the caller then discards the shelf."""
        entry = self.entries.pop(session_id)
        if self._pages is not None:
            number = _find_page(self._pages, entry[KEY])
            page = self._pages[number]
            del page[bisect.bisect_left(page, entry[KEY])]
            if not page:
                del self._pages[number]
        return entry

    def walk_after(self, key: Key) -> Iterator[str]:
        """Yields ids in order of (created_at, id), from the first one after the key. Nothing may change meanwhile."""
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
    """Returns the key's page, or the page where it would be. No page is empty."""
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
    """Returns the weight that the entry would have."""
    return _ROW_BYTES + sum(map(len, parts.values()))
