"""The terminal side of `carousel predict`: an editor with the likely next words below it."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Self

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document
from prompt_toolkit.filters import is_done
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import BufferControl, ConditionalContainer, FormattedTextControl, HSplit, Layout, Window

from carousel.cli.connection import open_async_client
from carousel.cli.draft import Draft
from carousel.cli.suggestions import NUM_ASKED, Suggestion, choose_suggestions, follow_word, is_whole_word
from carousel.client import AsyncClient, AsyncPredictor, ServerError

_HINT = "Tab takes the first word, Alt+digit another. Ctrl-D ends."
_NUM_BAR_CELLS = 24
_MARKS = frozenset(".,;:!?")


async def run_screen(address: str, num_words: int, session_id: str = "") -> None:
    """Runs until the user ends it. Raises ServerError when the server ends it."""
    async with open_async_client(address) as client:
        do_spaces_lead = (await client.model()).tokenizer != "word"
        async with Suggester(client, num_words, do_spaces_lead=do_spaces_lead, session_id=session_id) as suggester:
            await Screen(suggester, Draft(do_spaces_lead=do_spaces_lead), num_words).run()


class Follower:
    """Keeps one prediction stream in step with a text, and starts a new one when text it has read is deleted.

    With a session it follows a fork, which it deletes: typed text can be deleted, but a session cannot unread it.
    """

    def __init__(self, client: AsyncClient, draft: Draft, num_words: int, session_id: str) -> None:
        self._client = client
        self._draft = draft
        self._num_words = num_words
        self._session_id = session_id
        self._streams = AsyncExitStack()
        self._predict: AsyncPredictor | None = None

    async def ask(self, text: str) -> tuple[tuple[Suggestion, ...], str]:
        """Returns words for the end of `text`, and the unfinished word there that they replace."""
        step = self._draft.advance(text)
        if step.is_restart:
            await self.close()
        if self._predict is None:
            self._predict = await self._begin()
        prediction = await self._predict(
            step.feed, k=self._num_words, word_prefix=step.word_prefix, num_words=NUM_ASKED
        )
        return choose_suggestions(prediction, step.word_prefix or "", self._num_words), step.word_prefix or ""

    async def close(self) -> None:
        self._predict = None
        await self._streams.aclose()

    async def _begin(self) -> AsyncPredictor:
        fork_id = ""
        if self._session_id:
            [fork] = await self._client.fork_session(self._session_id)
            fork_id = fork.session_id
            self._streams.push_async_callback(self._delete, fork_id)
        return await self._streams.enter_async_context(self._client.predictor(session_id=fork_id))

    async def _delete(self, fork_id: str) -> None:
        with suppress(ServerError):  # already gone, or it will expire
            await self._client.delete_session(fork_id)


class Suggester:
    """Words for a text that is being typed: completions of its last word or, when that is a whole word, words that may
    follow it. A second stream reads ahead for these."""

    def __init__(self, client: AsyncClient, num_words: int, *, do_spaces_lead: bool, session_id: str = "") -> None:
        def follow() -> Follower:
            return Follower(client, Draft(do_spaces_lead=do_spaces_lead), num_words, session_id)

        self._here = follow()
        self._ahead = follow()

    async def suggest(self, text: str) -> tuple[Suggestion, ...]:
        rows, prefix = await self._here.ask(text)
        if not is_whole_word(rows, prefix):
            return rows
        after, _ = await self._ahead.ask(f"{text} ")
        return follow_word(after, prefix)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._ahead.close()
        await self._here.close()


class Screen:
    """The editor. Typing wakes a task that asks for words; keys never wait for the server."""

    def __init__(self, suggester: Suggester, draft: Draft, num_words: int) -> None:
        self._suggester = suggester
        self._draft = draft
        self._num_words = num_words
        self._changed = asyncio.Event()
        self._choices: tuple[Suggestion, ...] = ()
        self.num_answers = 0
        self._answered = ""  # the text that the choices belong to
        self._after_accepting = ""  # the text after the last accepted word, with its space
        self.buffer = Buffer(multiline=True, on_text_changed=self._wake, on_cursor_position_changed=self._wake)
        self.application: Application[None] = Application(
            layout=Layout(self._build_rows()), key_bindings=self._build_keys()
        )

    async def run(self) -> None:
        """Runs until the user ends it. Raises ServerError when the server ends it."""
        self._changed.set()
        tasks = [asyncio.create_task(self.application.run_async()), asyncio.create_task(self._follow())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _follow(self) -> None:
        """Makes one request at a time; the next one covers what was typed meanwhile."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            text = self._typed()
            self._choices = await self._suggester.suggest(text)
            self._answered = text
            self.num_answers += 1
            self.application.invalidate()

    def _typed(self) -> str:
        return self.buffer.document.text_before_cursor

    def _wake(self, _: Buffer) -> None:
        self._changed.set()

    def _accept(self, index: int) -> None:
        """Ignores choices for an older text: they may differ from what the user sees."""
        text = self._typed()
        if self._answered != text or index >= len(self._choices):
            return
        accepted = self._draft.accept(text, self._choices[index].text)
        self._replace(accepted)
        self._after_accepting = accepted

    def _replace(self, before_cursor: str) -> None:
        after = self.buffer.document.text_after_cursor
        self.buffer.set_document(Document(before_cursor + after, len(before_cursor)))

    def _insert_mark(self, mark: str) -> None:
        """Puts a closing mark before the space that came with an accepted word."""
        text = self._typed()
        if text and text == self._after_accepting:
            self._replace(text[:-1])
        self.buffer.insert_text(mark)

    def _end(self) -> None:
        if not self.application.is_done:
            self.application.exit()

    def _build_rows(self) -> HSplit:
        text = Window(BufferControl(self.buffer), wrap_lines=True, dont_extend_height=True)
        rows = Window(
            FormattedTextControl(lambda: format_choices(self._choices)),
            height=self._num_words,
            dont_extend_height=True,
        )
        hint = Window(FormattedTextControl([("ansibrightblack", _HINT)]), height=1)
        gap = Window(height=1)
        return HSplit([text, ConditionalContainer(HSplit([gap, rows, hint]), filter=~is_done)])

    def _build_keys(self) -> KeyBindings:
        keys = KeyBindings()
        keys.add("tab")(_run(partial(self._accept, 0)))
        for digit in range(1, self._num_words + 1):
            keys.add("escape", str(digit))(_run(partial(self._accept, digit - 1)))
        for mark in _MARKS:
            keys.add(mark)(_run(partial(self._insert_mark, mark)))
        keys.add("c-c")(_run(self._end))
        keys.add("c-d")(_run(self._end))
        return keys


def _run(action: Callable[[], None]) -> Callable[[KeyPressEvent], None]:
    return lambda event: action()


def format_choices(choices: Sequence[Suggestion]) -> StyleAndTextTuples:
    width = max((len(choice.label) for choice in choices), default=0)
    lines: StyleAndTextTuples = []
    for number, choice in enumerate(choices, 1):
        bar = "█" * round(choice.probability * _NUM_BAR_CELLS)
        lines.append(("ansibrightblack", f"  {number} "))
        lines.append(("bold" if number == 1 else "", f"{choice.label:<{width}}"))
        lines.append(("ansicyan", f"  {choice.probability:6.1%} {bar}\n"))
    return lines
