"""A response as a stream of events, in the order in which OpenAI's client adds them up.

Source: `openai.types.responses.ResponseStreamEvent` and `openai.lib.streaming.responses` of OpenAI's client 3.57.
"""

import json
from typing import Any

from carousel.sessions.requests import GenerationEnd
from carousel.web.openai.response_objects import Object, ResponseObject, part_of


class ResponseEvents:
    """Writes one response's events, each as the bytes of a server-sent event. It keeps the text so far."""

    def __init__(self, response: ResponseObject) -> None:
        self._response = response
        self._number = 0
        self._text: list[str] = []
        self._place = {"item_id": response.item_id, "output_index": 0, "content_index": 0}

    def begin(self) -> bytes:
        """Returns what comes before the text. The item is still empty."""
        begun = self._response.begun()
        item = self._response.item(None, "in_progress")
        return (
            self._event("response.created", response=begun)
            + self._event("response.in_progress", response=begun)
            + self._event("response.output_item.added", output_index=0, item=item)
            + self._event("response.content_part.added", **self._place, part=part_of(""))
        )

    def add(self, text: str) -> bytes:
        """Returns the event of more text; empty for none."""
        self._text.append(text)
        return self._event("response.output_text.delta", **self._place, delta=text, logprobs=[]) if text else b""

    def finish(self, end: GenerationEnd) -> bytes:
        """Returns what comes after the text."""
        text = "".join(self._text)
        done = self._response.done(text, end)
        return (
            self._event("response.output_text.done", **self._place, text=text, logprobs=[])
            + self._event("response.content_part.done", **self._place, part=part_of(text))
            + self._event("response.output_item.done", output_index=0, item=done["output"][0])
            + self._event(f"response.{done['status']}", response=done)
        )

    def fail(self, error: Object) -> bytes:
        """Returns the last events of a response that an error ends. The second makes clients raise that read on."""
        failed = self._response.failed("".join(self._text), error)
        flat = {name: error[name] for name in ("code", "message", "param")}
        return self._event("response.failed", response=failed) + self._event("error", **flat, error=error)

    def _event(self, kind: str, **content: Any) -> bytes:
        data = json.dumps({"type": kind, "sequence_number": self._number, **content})
        self._number += 1
        return f"event: {kind}\ndata: {data}\n\n".encode()
