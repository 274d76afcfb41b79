"""`record` declares a small value that nobody changes.

The type checker takes it for `dataclass(frozen=True, slots=True)`. At run time it is not frozen, which would triple
the time to make one, and every turn makes a dozen.
"""

from typing import TYPE_CHECKING

__all__ = ["record"]

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:
    from dataclasses import dataclass

    def record(*, frozen: bool, slots: bool):
        return dataclass(slots=slots, unsafe_hash=frozen)
