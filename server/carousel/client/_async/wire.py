"""The seam between a client and its connection: calls once made, their messages as they are. `wires/` has what does it.

A call that fails raises ServerError, whoever ended it. A reader that is itself cancelled or interrupted gets that, and
its call is cancelled. What is dropped while it runs is cancelled too.
"""

from typing import Any, Protocol

from carousel.client.core.calls import Call
from carousel.client.core.options import CallOptions


class Answers(Protocol):
    """The messages of one call."""

    async def read(self) -> Any:
        """The next one; None when the server has said that there are no more. After a failure it fails again."""
        ...

    async def wait_until_open(self) -> None:
        """Until the server has answered for the first time, or failed: reading tells which."""
        ...

    def cancel(self) -> None:
        """Changes nothing when the call has ended."""
        ...


class Line(Protocol):
    """A request, its answer, the next request: one at a time, all on one sequence. Whether it has a call of its own is
    its own affair."""

    @property
    def is_over(self) -> bool:
        """Nothing more can be asked."""
        ...

    async def exchange(self, request: Any) -> Any:
        """The answer. Raises ServerError; the line is over then, nothing of it is left open, and it fails again. It may
        not be over after a refusal for load: then its sequence is as it was, and the question can be put again."""
        ...

    async def end(self, *, is_orderly: bool) -> None:
        """In order: the server has the time to say that it is over, too. Raises nothing: what was asked is answered."""
        ...

    def drop(self) -> None:
        """When there is no time to await the end."""
        ...


class Wire(Protocol):
    """A connection to one server, made when first needed."""

    async def close(self) -> None:
        """Cancels the calls that are still open; they fail as CANCELLED, and so does what is asked later."""
        ...

    async def ask(self, call: Call[Any], options: CallOptions) -> Any:
        """The one message that answers."""
        ...

    def stream(self, call: Call[Any], options: CallOptions) -> Answers: ...

    def line(self, call: Call[Any], options: CallOptions) -> Line:
        """For a call without a request."""
        ...
