"""`record` declares a small value that no code changes.

The type checker treats it as `dataclass(frozen=True, slots=True)`. At run time it is not frozen: that would triple the
time to create one, and every turn creates a dozen.
"""

from typing import TYPE_CHECKING

__all__ = ["record"]

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:
    from dataclasses import dataclass

    def record(*, frozen: bool, slots: bool):
        return dataclass(slots=slots, unsafe_hash=frozen)
