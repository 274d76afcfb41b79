"""`carousel`, with a leak planted: each turn leaves SOAK_LEAK_BYTES behind. Shows that the soak finds one.

SOAK_LEAK_BYTES=100 python -m trials.soak
"""

import os
import sys
from typing import Any

from carousel.cli.main import main
from carousel.engine.engine import Engine

VARIABLE = "SOAK_LEAK_BYTES"
_EMPTY_BYTES = sys.getsizeof(b"")
_leaked: list[bytes] = []


def plant_leak(num_bytes: int) -> None:
    """Every turn that reaches the engine leaks from now on."""
    submit = Engine.submit

    def submit_and_leak(engine: Engine, *given: Any, **named: Any) -> Any:
        _leaked.append(b"x" * (num_bytes - _EMPTY_BYTES))  # written to, or it takes no memory
        return submit(engine, *given, **named)

    setattr(Engine, "submit", submit_and_leak)  # noqa: B010


if __name__ == "__main__":
    plant_leak(int(os.environ[VARIABLE]))
    main()
