"""The object of a response, whole or in progress: the same for the first answer, for its repeats, and when it is read.

Source: `openai.types.responses.Response` of OpenAI's client 3.57. `session_id` and `position` are our own.
"""

import json
import time
from hashlib import blake2b
from typing import Any

from carousel.sessions.requests import GenerationEnd, Receipt
from carousel.turns import FinishReason
from carousel.web.openai.response_bodies import ResponseBody
from carousel.web.openai.response_ids import draw_id, write_id

Object = dict[str, Any]
_ECHOED = (
    "max_output_tokens",
    "metadata",
    "parallel_tool_calls",
    "store",
    "temperature",
    "tool_choice",
    "top_p",
    "truncation",
)
_NAMES = ("previous_response_id", "prompt_cache_key", "safety_identifier", "user")
_STOPPED = frozenset({FinishReason.STOP, FinishReason.STOP_ID})


def write_memo(body: ResponseBody, session_id: str) -> str:
    """Returns what an answer does not know of its request, and its object tells. `session_id` is the conversation."""
    memo: Object = {name: getattr(body, name) for name in _ECHOED}
    memo |= {name: getattr(body, name) or None for name in _NAMES}
    memo["conversation"] = {"id": session_id} if session_id else None
    memo["created_at"] = int(time.time())
    return json.dumps(memo, ensure_ascii=False, separators=(",", ":"))


class ResponseObject:
    """Writes the object of one response."""

    def __init__(self, model: str, owner: str, receipt: Receipt) -> None:
        waypoint = receipt.waypoint
        self.id = draw_id() if waypoint is None else write_id(owner, waypoint)
        self.item_id = f"msg_{blake2b(self.id.encode(), digest_size=16).hexdigest()}"
        self._session_id = None if waypoint is None else waypoint.session_id
        self._head: Object = {
            "id": self.id,
            "object": "response",
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "model": model,
            "output": [],
            "reasoning": None,
            "service_tier": "default",
            "text": {"format": {"type": "text"}, "verbosity": "medium"},
            "tools": [],
            "top_logprobs": 0,
            "usage": None,
        } | json.loads(receipt.memo)

    def begun(self) -> Object:
        """Returns the object of a response that has no text yet."""
        return self._head

    def done(self, text: str, end: GenerationEnd) -> Object:
        is_stopped = end.reason in _STOPPED
        status = "completed" if is_stopped else "incomplete"
        details = None if is_stopped else {"reason": "max_output_tokens"}
        done = self._head | {"status": status, "incomplete_details": details, "usage": _usage(end)}
        done["output"] = [self.item(text, status)]
        if self._session_id is not None:
            done |= {"session_id": self._session_id, "position": end.standing.position}
        return done

    def failed(self, text: str, error: Object) -> Object:
        """Takes the text so far, and OpenAI's error object."""
        code = "rate_limit_exceeded" if error["type"] == "rate_limit_error" else "server_error"
        failed = self._head | {"status": "failed", "error": {"code": code, "message": error["message"]}}
        return failed | {"output": [self.item(text, "incomplete")]}

    def item(self, text: str | None, status: str) -> Object:
        """Returns the one item of the output; without a text, one that has no content yet."""
        content = [] if text is None else [part_of(text)]
        return {"id": self.item_id, "type": "message", "status": status, "role": "assistant", "content": content}


def part_of(text: str) -> Object:
    """Returns the one part of the item's content."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(end: GenerationEnd) -> Object:
    """Counts the tokens of this turn. What the session had read before is not read again, nor counted."""
    num_input, num_generated = end.num_input_tokens, end.num_generated_tokens
    return {
        "input_tokens": num_input,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": num_generated,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": num_input + num_generated,
    }
