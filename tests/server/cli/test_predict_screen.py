"""The terminal side of `carousel predict`, with keys from a pipe and an invisible screen."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.input.base import PipeInput
from prompt_toolkit.output import DummyOutput
from tests.server.cli.conftest import Fake
from tests.server.cli.vocabularies import know_words
from tests.server.fake_sessions import Kept

from carousel.cli.draft import Draft
from carousel.cli.predict_screen import Screen, Suggester, format_choices
from carousel.cli.suggestions import Suggestion
from carousel.client import AsyncClient, ServerError
from carousel.v1 import language_model_pb2 as lm

_CTRL_D = "\x04"
_BACKSPACE = "\x7f"


class Desk:
    """A running screen and its keyboard."""

    def __init__(self, screen: Screen, keys: PipeInput) -> None:
        self._screen = screen
        self.keys = keys
        self.running = asyncio.create_task(screen.run())

    async def press(self, keys: str) -> None:
        """Presses the keys, and waits until the words for the new text have arrived."""
        self.keys.send_text(keys)
        await asyncio.wait_for(self._answered(), 10)

    async def _answered(self) -> None:
        before = self._screen.num_answers
        while self._screen.num_answers == before:
            await asyncio.sleep(0)

    @property
    def text(self) -> str:
        return self._screen.buffer.text


@asynccontextmanager
async def _open_desk(fake: Fake, session_id: str = "") -> AsyncIterator[Desk]:
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        async with (
            AsyncClient(fake.address) as client,
            Suggester(client, 2, do_spaces_lead=True, session_id=session_id) as suggester,
        ):
            screen = Screen(suggester, Draft(do_spaces_lead=True), 2)
            desk = Desk(screen, keys)
            await desk.press("")
            yield desk
            if not desk.running.done():
                keys.send_text(_CTRL_D)
            await asyncio.wait_for(desk.running, 10)


async def test_keys_write_and_tab_takes_the_first_word(fake: Fake) -> None:
    """The word replaces its beginning; a space follows for the next."""
    async with _open_desk(fake) as desk:
        await desk.press("The ca")
        await desk.press("\t")
        assert desk.text == "The caa "


async def test_alt_and_a_digit_take_another_word(fake: Fake) -> None:
    """Numbered as on the screen."""
    async with _open_desk(fake) as desk:
        await desk.press("The ca")
        await desk.press("\x1b2")
        assert desk.text == "The cab "


async def test_a_closing_mark_moves_before_the_space(fake: Fake) -> None:
    """Only the space that came with an accepted word gives way; one that was typed stays."""
    async with _open_desk(fake) as desk:
        await desk.press("x")
        await desk.press("\t")
        await desk.press(".")
        assert desk.text == "xa."
        await desk.press(" y ")
        await desk.press("!")
        assert desk.text == "xa. y !"


async def test_enter_begins_a_line(fake: Fake) -> None:
    """The line end is fed."""
    async with _open_desk(fake) as desk:
        await desk.press("The\r")
        assert desk.text == "The\n"
    assert "".join(request.input.text for request in fake.service.requests) == "The\n"


async def test_backspace_over_fed_words_begins_a_new_sequence(fake: Fake) -> None:
    """The remaining text is fed again on a new stream; the old one gets no more requests."""
    async with _open_desk(fake) as desk:
        await desk.press("The cat ")
        await desk.press(_BACKSPACE * 2)
        assert desk.text == "The ca"
    last = fake.service.requests[-1]
    assert (last.input.text, last.word_prefix) == ("The", " ca")


async def test_after_a_whole_word_the_next_ones_are_offered(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accepting one keeps the typed word; further letters make it the beginning of another word again."""
    know_words(monkeypatch, " of")
    async with _open_desk(fake) as desk:
        await desk.press("The of")
        await desk.press("\t")
        assert desk.text == "The of a "
    async with _open_desk(fake) as desk:
        await desk.press("The of")
        await desk.press("f")
        await desk.press("\t")
        assert desk.text == "The offa "


async def test_a_session_is_asked_and_stays_as_it_is(fake: Fake) -> None:
    """Typing uses forks of it, a new one when fed text is deleted, and none remains."""
    fake.service.kept["mine"] = Kept(7)
    async with _open_desk(fake, "mine") as desk:
        await desk.press("The cat ")
        await desk.press(_BACKSPACE * 2)
        forks = fake.service.positions.keys() - {"mine"}
        assert {fake.service.positions[one] for one in forks} == {10}
    assert fake.service.positions == {"mine": 7}
    fed = [request for request in fake.service.requests if isinstance(request, lm.PredictRequest)]
    assert all(request.session_id and request.session_id != "mine" for request in fed)


async def test_a_servers_error_ends_the_screen(fake: Fake) -> None:
    """`run` raises it, and the screen ends."""

    async def type_what_fails() -> None:
        async with _open_desk(fake) as desk:
            desk.keys.send_text("bad ")
            await asyncio.wait([desk.running], timeout=10)

    with pytest.raises(ServerError, match="top_p"):
        await type_what_fails()


def test_rows_show_bars_by_probability() -> None:
    """Numbered from 1, as the keys are."""
    rows = format_choices([Suggestion("cat", " cat", 0.5), Suggestion("a", " a", 0.0)])
    lines = "".join(fragment[1] for fragment in rows).splitlines()
    assert lines == ["  1 cat   50.0% " + "█" * 12, "  2 a      0.0% "]
