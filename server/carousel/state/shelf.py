"""The sessions of one owner in memory: by last use, and in the order in which they were made."""

import bisect
import collections
import itertools
import operator
from collections.abc import Iterator
from typing import Any

from carousel.state.expiries import Key
from carousel.state.store import Parts, Row

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
        self._pages: list[list[Key]] = []  # sorted; of bounded length, so that to remove a key moves few

    def add(self, entry: Entry) -> None:
        key: Key = entry[KEY]
        self.entries[key[1]] = entry
        if not self._pages:
            self._pages.append([key])
            return
        number = self._find_page(key)
        page = self._pages[number]
        if len(page) < _PAGE:
            bisect.insort(page, key)
        elif number == len(self._pages) - 1 and key > page[-1]:
            self._pages.append([key])
        else:
            bisect.insort(page, key)
            self._pages[number : number + 1] = [page[: _PAGE // 2], page[_PAGE // 2 :]]

    def remove(self, session_id: str) -> Entry:
        entry = self.entries.pop(session_id)
        number = self._find_page(entry[KEY])
        page = self._pages[number]
        del page[bisect.bisect_left(page, entry[KEY])]
        if not page:
            del self._pages[number]
        return entry

    def walk_after(self, key: Key) -> Iterator[str]:
        """Ids in order of (created_at, id), from the first one after the key. Nothing may change meanwhile."""
        number = self._find_page(key)
        for page in itertools.islice(self._pages, number, None):
            start = bisect.bisect_right(page, key)
            for _, session_id in itertools.islice(page, start, None):
                yield session_id

    def _find_page(self, key: Key) -> int:
        """That of the key, or where it would be."""
        return max(0, bisect.bisect_right(self._pages, key, key=operator.itemgetter(0)) - 1)


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
