"""One input for a server: a call, or several in order, each read to its end or given up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError
from google.rpc import code_pb2
from trials.fuzz.methods import Method

FORBIDDEN_ITEMS = (code_pb2.INTERNAL, code_pb2.UNKNOWN)
Metadata = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Fate:
    """How much of an answer is read: a number of messages, a number of seconds; None: all of it."""

    num_answers: int | None = None
    seconds: float | None = None


@dataclass(slots=True)
class Memory:
    """What the answers so far returned; later calls of a script use it."""

    positions: dict[str, int] = field(default_factory=dict)  # by session
    state: bytes = b""
    page_token: str = ""
    failed_items: list[str] = field(default_factory=list)  # statuses in frames that a server must not give

    def note(self, method: Method, content: bytes, answered: bytes) -> None:
        """Records any fields that the answer has."""
        answer = method.answer.FromString(answered)
        for part in (answer, *(getattr(answer, name, None) for name in ("finished", "totals"))):
            if getattr(part, "position", 0):
                self.positions[_session_id(method, content)] = part.position  # type: ignore[union-attr]
            self.state = getattr(part, "state", b"") or self.state
        for item in getattr(answer, "items", ()):
            if item.status.code in FORBIDDEN_ITEMS:
                self.failed_items.append(f"{item.status.code}: {item.status.message}")
        self.page_token = getattr(answer, "next_page_token", "") or self.page_token


def _session_id(method: Method, content: bytes) -> str:
    try:
        return getattr(method.request.FromString(content), "session_id", "")
    except DecodeError:
        return ""


@dataclass(frozen=True, slots=True)
class Step:
    """One call. `make` returns its messages, serialized."""

    method: Method
    make: Callable[[Memory], Sequence[bytes]]
    fate: Fate = Fate()


@dataclass(frozen=True, slots=True)
class Script:
    """Calls in sequence; `overlap` starts each without waiting for the previous one."""

    steps: Sequence[Step]
    metadata: Metadata = ()
    overlap: bool = False
