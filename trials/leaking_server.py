"""`carousel` with a planted leak: each turn leaks SOAK_LEAK_BYTES. Proves that the soak finds a leak."""

import os
import sys
from typing import Any

from carousel.cli.main import main
from carousel.engine.engine import Engine

VARIABLE = "SOAK_LEAK_BYTES"
_EMPTY_BYTES = sys.getsizeof(b"")
_leaked: list[bytes] = []


def plant_leak(num_bytes: int) -> None:
    """From now on, every turn that reaches the engine leaks."""
    submit = Engine.submit

    def submit_and_leak(engine: Engine, *given: Any, **named: Any) -> Any:
        _leaked.append(b"x" * (num_bytes - _EMPTY_BYTES))  # written to, or it takes no memory
        return submit(engine, *given, **named)

    setattr(Engine, "submit", submit_and_leak)  # noqa: B010


if __name__ == "__main__":
    plant_leak(int(os.environ[VARIABLE]))
    main()
