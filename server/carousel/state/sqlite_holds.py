"""Who may end a session by the clock or for room: the event loop knows what is held, the writer's thread decides.

A take is recorded before it reads anything, and the writer records what it will end before it ends it, both under the
same lock. So one of the two sees the other: the writer leaves the session alone, or the take asks the writer.
"""

import collections
import itertools
import threading

Key = tuple[str, str]  # owner, session id


class Holds:
    """Holds by number, possibly several of one session. Both threads may call all methods."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._held: dict[Key, set[int]] = {}
        self._asking: dict[Key, set[int]] = {}  # the writer answers them, so it may end these sessions
        self._ending: collections.Counter[Key] = collections.Counter()  # by transactions whose end is not yet reported

    def __repr__(self) -> str:
        return f"Holds({len(self._held)} sessions held, {len(self._ending)} ending)"

    def __len__(self) -> int:
        return len(self._held)

    def add(self, key: Key) -> int:
        """Adds a hold and returns its number. The hold asks the writer if the session is being ended."""
        with self._lock:
            number = next(self._numbers)
            holds = self._asking if key in self._ending else self._held
            holds.setdefault(key, set()).add(number)
            return number

    def ask(self, key: Key, number: int) -> None:
        """The hold no longer protects its session, until it is granted."""
        with self._lock:
            _move(key, number, self._held, self._asking)

    def is_asking(self, key: Key, number: int) -> bool:
        with self._lock:
            return number in self._asking.get(key, ())

    def grant(self, key: Key, number: int) -> None:
        """A hold that asked now holds the session, unless it was dropped meanwhile."""
        with self._lock:
            _move(key, number, self._asking, self._held)

    def drop(self, key: Key, number: int) -> None:
        """Does nothing when there is no such hold."""
        with self._lock:
            _discard(key, number, self._held)
            _discard(key, number, self._asking)

    def is_held(self, key: Key) -> bool:
        with self._lock:
            return key in self._held

    def begin_ending(self, key: Key, *, even_held: bool = False) -> bool:
        """Returns whether the session may be ended; `finish_ending` then follows when that is known or undone."""
        with self._lock:
            if key in self._held and not even_held:
                return False
            self._ending[key] += 1
            return True

    def finish_ending(self, key: Key) -> None:
        with self._lock:
            self._ending[key] -= 1
            if self._ending[key] <= 0:
                del self._ending[key]


def _move(key: Key, number: int, source: dict[Key, set[int]], target: dict[Key, set[int]]) -> None:
    if _discard(key, number, source):
        target.setdefault(key, set()).add(number)


def _discard(key: Key, number: int, holds: dict[Key, set[int]]) -> bool:
    numbers = holds.get(key)
    if numbers is None or number not in numbers:
        return False
    numbers.discard(number)
    if not numbers:
        del holds[key]
    return True
