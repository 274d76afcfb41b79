"""Handles together what comes in one round of the event loop."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")


class Rounds(Generic[Item]):
    """Collects the items of one round of the loop and gives them to `work` together, in a new task. Several tasks may
    run at once."""

    def __init__(self, work: Callable[[Sequence[Item]], Coroutine[Any, Any, None]], name: str) -> None:
        self._work = work
        self._name = name
        self._items: list[Item] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"Rounds({self._name}, {len(self._items)} to begin, {len(self._tasks)} running)"

    def add(self, item: Item) -> None:
        self._items.append(item)
        if len(self._items) == 1:
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        items, self._items = self._items, []
        task = asyncio.create_task(self._work(items), name=self._name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def tell(work: Callable[[], None]) -> None:
    """Delivers the outcome of one of several turns. An error here does not keep the others from their answers."""
    try:
        work()
    except Exception as error:  # a defect of ours
        context = {"message": "a held turn was not delivered", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)
