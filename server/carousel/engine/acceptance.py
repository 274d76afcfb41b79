"""Marks a request while it may submit turns."""

from typing import Protocol


class Admitting(Protocol):
    """What admits requests: the engine."""

    def begin_request(self, owner: str) -> None: ...

    def end_request(self) -> None: ...


class Accepted:
    """An accepted request. It is a class because a generator would cost every turn a microsecond."""

    __slots__ = ("_engine", "_owner")

    def __init__(self, engine: Admitting, owner: str) -> None:
        self._engine = engine
        self._owner = owner

    def __enter__(self) -> None:
        self._engine.begin_request(self._owner)

    def __exit__(self, *raised: object) -> None:
        self._engine.end_request()
