"""A server, or a decoding child, with a fault that a fuzz must find. The product itself has no such fault."""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from carousel.bundle.tokenizer import Tokenizer
from carousel.state.codec import SnapshotCodec
from carousel.turns import Snapshot

FAULTY_IDS = 7  # this number of token ids, or more, breaks the server
FAULTY_REST = 3  # a snapshot whose length modulo 4 is this breaks the child
EXIT_CODE = 41
_HOUR = 3600.0


def main() -> None:
    fail = _FAULTS[sys.argv[1]]
    sys.argv = ["carousel", *sys.argv[2:]]
    run = _find_program()
    plant(fail)
    run()


def _find_program() -> Callable[[], None]:
    match sys.argv[1]:
        case "serve":
            from carousel.cli.main import main as program
        case "guided":
            from trials.fuzz.guided_child import main as program

            del sys.argv[1]
        case _:
            from trials.fuzz.decode_child import main as program
    return program


def plant(fail: Callable[[], None]) -> None:

    decode_ids, decode_snapshot = Tokenizer.decode, SnapshotCodec.decode

    def spell(self: Tokenizer, ids: Sequence[int]) -> str:
        if len(ids) >= FAULTY_IDS:
            fail()
        return decode_ids(self, ids)

    def decode(self: SnapshotCodec, blob: bytes) -> Snapshot:
        if len(blob) % 4 == FAULTY_REST:
            fail()
        return decode_snapshot(self, blob)

    Tokenizer.decode, SnapshotCodec.decode = spell, decode  # type: ignore[method-assign, assignment]


def _raise() -> None:
    raise KeyError("planted")


_FAULTS: Mapping[str, Callable[[], None]] = {
    "raise": _raise,
    "hang": lambda: time.sleep(_HOUR),
    "exit": lambda: os._exit(EXIT_CODE),
}

if __name__ == "__main__":
    main()
