"""What a stream of many sequences has received and not read yet: frames in order, as bytes.

While there is no room for questions, the server looks ahead for closes. Each close makes room, and earlier items of its
tag need no answer any more.
"""

import collections
from collections.abc import Callable

from carousel.sessions.messages import Item

ReadItem = Callable[[bytes, int], tuple[Item | None, int]]  # as in `Format`


class _Frame:
    __slots__ = ("content", "place", "seen", "taken")

    def __init__(self, content: bytes, place: int) -> None:
        self.content = content
        self.place = place  # offset of its first byte in all that was received
        self.taken = 0  # number of bytes read
        self.seen = 0  # number of bytes looked at ahead


class Backlog:
    """One stream's unread frames. Reading raises MessageInvalid for a damaged item, which stays the next to read."""

    def __init__(self, read_item: ReadItem, max_closed_ahead: int) -> None:
        """Remembers at most `max_closed_ahead` tags as closed ahead. Closes of further tags wait for their order."""
        self._read_item = read_item
        self._max_closed_ahead = max_closed_ahead
        self._frames: collections.deque[_Frame] = collections.deque()
        self._unseen: collections.deque[_Frame] = collections.deque()  # the last frames, not fully looked at
        self._closed: dict[int, int] = {}  # tag -> the offset of its last close
        self._place = 0
        self.num_bytes = 0  # of frames that are not fully read

    def __repr__(self) -> str:
        return f"Backlog({len(self._frames)} frames, {self.num_bytes} bytes)"

    def __bool__(self) -> bool:
        return bool(self._frames)

    def add(self, content: bytes) -> None:
        if content:
            frame = _Frame(content, self._place)
            self._frames.append(frame)
            self._unseen.append(frame)
            self._place += len(content)
            self.num_bytes += len(content)

    def pop(self) -> tuple[Item | None, int]:
        """Returns the next item and its size. The item is None for an unknown field or before a close seen ahead."""
        frame = self._frames[0]
        start = frame.taken
        item, end = self._read_item(frame.content, start)
        frame.taken = end
        if end == len(frame.content):
            self._finish(frame)
        if item is not None and self._closed and self._is_void(item.tag, frame.place + start):
            return None, end - start
        return item, end - start

    @property
    def is_seen(self) -> bool:
        """Whether every item was looked at."""
        return not self._unseen

    def look_ahead(self) -> tuple[int | None, int]:
        """Looks at the next unseen item without reading it. Returns the tag that it closes, if any, and its size."""
        frame = self._unseen[0]
        at = max(frame.seen, frame.taken)
        item, end = self._read_item(frame.content, at)
        frame.seen = end
        if end >= len(frame.content):
            self._unseen.popleft()
        if item is None or not item.close:
            return None, end - at
        if item.tag not in self._closed and len(self._closed) >= self._max_closed_ahead:
            return None, end - at
        self._closed[item.tag] = frame.place + at
        return item.tag, end - at

    def _finish(self, frame: _Frame) -> None:
        self._frames.popleft()
        if self._unseen and self._unseen[0] is frame:
            self._unseen.popleft()
        self.num_bytes -= len(frame.content)

    def _is_void(self, tag: int, place: int) -> bool:
        """Whether the item at that offset is before a close seen ahead, or is that close."""
        last = self._closed.get(tag)
        if last is None or place > last:
            return False
        if place == last:
            del self._closed[tag]
        return True
