"""What has come on a stream of many sequences and was not taken yet: frames, in their order, as bytes.

While there is no room for questions, closes are sought ahead: each makes room, and what came before it for its tag need
not be asked any more.
"""

import collections
from collections.abc import Callable

from carousel.sessions.messages import Item

ReadItem = Callable[[bytes, int], tuple[Item | None, int]]  # a format's


class _Frame:
    __slots__ = ("content", "place", "seen", "taken")

    def __init__(self, content: bytes, place: int) -> None:
        self.content = content
        self.place = place  # of its first byte among all bytes that came
        self.taken = 0  # so many bytes
        self.seen = 0  # looked at ahead


class Backlog:
    """Reading raises MessageInvalid; what is wrong stays the next one to be read."""

    def __init__(self, read_item: ReadItem, max_closed_ahead: int) -> None:
        """`max_closed_ahead` tags are remembered as closed ahead of their order; closes of others wait for theirs."""
        self._read_item = read_item
        self._max_closed_ahead = max_closed_ahead
        self._frames: collections.deque[_Frame] = collections.deque()
        self._unseen: collections.deque[_Frame] = collections.deque()  # the last of them, not looked at to their ends
        self._closed: dict[int, int] = {}  # tag -> where its last close was seen
        self._place = 0
        self.num_bytes = 0  # of frames that are not taken to their ends

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

    def take(self) -> tuple[Item | None, int]:
        """The next item and its size; None for a field that is none, or for one that came before a close seen ahead."""
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
        """Whether all was looked at."""
        return not self._unseen

    def look_ahead(self) -> tuple[int | None, int]:
        """Look at the next item that was not looked at yet, without taking it: the tag that is over by it, and its
        size."""
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
        """Whether an item there came before a close that was seen, or is that one."""
        last = self._closed.get(tag)
        if last is None or place > last:
            return False
        if place == last:
            del self._closed[tag]
        return True
