"""Splits a text that is being typed into what the model has read and a word's unfinished beginning.

Pure: it knows neither a server nor a terminal.
"""

import re
from dataclasses import dataclass

_MAX_PREFIX_BYTES = 64  # the wire's bound
# In most vocabularies a word's tokens begin with the space before it, so that space belongs to the unfinished word.
_AFTER_SPACES = re.compile(r"[^\S\n]*[^\s.,;:!?]*\Z")
# In a vocabulary of whole words they end with the space after it.
_BEFORE_SPACES = re.compile(r"\S*\Z")


@dataclass(frozen=True, slots=True)
class Step:
    """What to do for the current text."""

    feed: str
    word_prefix: str | None  # None when it is too long
    is_restart: bool  # the model has read text that is now deleted: feed to a new sequence


class Draft:
    """A text in an editor, and what one sequence has read of it."""

    def __init__(self, *, do_spaces_lead: bool) -> None:
        self._unfinished = _AFTER_SPACES if do_spaces_lead else _BEFORE_SPACES
        self._fed = ""

    def advance(self, text: str) -> Step:
        """Returns the next step and counts it as done."""
        settled, prefix = self.split(text)
        is_restart = not settled.startswith(self._fed)
        feed = settled if is_restart else settled[len(self._fed) :]
        self._fed = settled
        return Step(feed, prefix if len(prefix.encode()) <= _MAX_PREFIX_BYTES else None, is_restart)

    def split(self, text: str) -> tuple[str, str]:
        """Returns the finished text, and the unfinished word at its end: empty after a line end or a closing mark."""
        found = self._unfinished.search(text)
        assert found is not None  # both patterns match the empty end
        return text[: found.start()], found.group()

    def accept(self, text: str, word: str) -> str:
        """Returns `text` with its unfinished word replaced by `word`, ready for the next one."""
        return self.split(text)[0] + word + " "
