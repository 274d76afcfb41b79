# Generated from server/carousel/client/_async/wire.py by `make client`: change that file, not this one.
"""The interface between a client and its connection: calls made once, messages unchanged. `wires/` implements it.

A call that fails raises ServerError, whichever side ended it. When the reading task is cancelled or interrupted, the
reader gets that error and the call is cancelled. An object that is dropped while its call runs cancels the call too.
"""

from typing import Any, Protocol

from carousel.client.core.calls import Call
from carousel.client.core.options import CallOptions


class Answers(Protocol):
    """The messages of one call."""

    def read(self) -> Any:
        """Returns the next message; None when the server has ended the stream. After a failure it fails again."""
        ...

    def wait_until_open(self) -> None:
        """Returns when the server has answered for the first time, or failed; a read shows which."""
        ...

    def cancel(self) -> None:
        """Cancels the call. Does nothing when the call has ended."""
        ...


class Line(Protocol):
    """A request, its answer, the next request: one at a time, all on one sequence. A line may have its own call or
    share one."""

    @property
    def is_over(self) -> bool:
        """Whether the line has ended."""
        ...

    def exchange(self, request: Any) -> Any:
        """Returns the answer. Raises ServerError; the line has then ended, leaves nothing open, and fails again. After
        a refusal for load the line may go on: then its sequence is unchanged, and the request can be sent again."""
        ...

    def end(self, *, is_orderly: bool) -> None:
        """Ends the line. `is_orderly` gives the server time to end it too. Raises nothing: all requests are answered by
        then."""
        ...

    def drop(self) -> None:
        """Ends the line when there is no time to wait."""
        ...


class Wire(Protocol):
    """A connection to one server, opened on first use."""

    def close(self) -> None:
        """Cancels the open calls; they fail with CANCELLED, and so do later calls."""
        ...

    def ask(self, call: Call[Any], options: CallOptions) -> Any:
        """Returns the single answer."""
        ...

    def stream(self, call: Call[Any], options: CallOptions) -> Answers: ...

    def line(self, call: Call[Any], options: CallOptions) -> Line:
        """Returns a line for a call without a request."""
        ...
