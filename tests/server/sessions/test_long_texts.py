"""Long texts are converted beside the event loop, owner by owner, within their bounds."""

import asyncio

import pytest
from tests.bounds import make_limits
from tests.fakes import byte_tokenizer
from tests.worlds import Plan, running_world

from carousel.errors import InvalidRequest
from carousel.sessions.checks import Limits
from carousel.sessions.encoding import Encoder
from carousel.sessions.requests import Caller, PredictionRequest


def marked_text(num_characters: int) -> str:
    return ("abcdefgh" * (num_characters // 8 + 1))[:num_characters]


async def test_a_long_text_is_tokenized_beside_the_event_loop() -> None:
    """The ids are those of the direct way, and the loop turns meanwhile."""
    async with running_world(Plan(limits=make_limits(100_000, 10))) as world:
        text = marked_text(50_000)
        tokenizing = asyncio.create_task(world.sessions.tokenize("ann", text))
        num_rounds = 0
        while not tokenizing.done():
            await asyncio.sleep(0)
            num_rounds += 1
        assert num_rounds > 3
        assert list(await tokenizing) == world.plan.tokenizer.encode(text)


async def test_a_long_list_of_ids_is_turned_into_text_beside_the_event_loop() -> None:
    """The text is that of the direct way, even where a slice ends within a character; the loop turns again and again
    meanwhile."""
    async with running_world() as world:
        ids = [number % 3 + 1 for number in range(40_001)]
        turning = asyncio.create_task(world.sessions.detokenize("ann", ids))
        num_rounds = 0
        while not turning.done():
            await asyncio.sleep(0)
            num_rounds += 1
        assert num_rounds > 40_000 // 2_048
        assert await turning == world.plan.tokenizer.decode(ids)


async def test_bytes_of_one_character_may_lie_in_two_slices() -> None:
    """This happens where tokens are bytes."""
    encoder = Encoder(byte_tokenizer(), make_limits(10**6, 9), 256)
    text = "日本" * 2_000
    assert await encoder.decode(list(text.encode())) == text
    encoder.close()


@pytest.mark.parametrize("num_good", [0, 5_000])
async def test_ids_that_there_are_not_have_no_text(num_good: int) -> None:
    """They are refused however far back in the list they stand."""
    async with running_world() as world:
        with pytest.raises(InvalidRequest, match="^ids: token id 99 "):
            await world.sessions.detokenize("ann", [*([1] * num_good), 99])


async def test_long_lists_of_owners_take_turns() -> None:
    """An owner who asks for much delays only himself."""
    async with running_world() as world:
        done: list[str] = []

        async def ask(owner: str) -> None:
            await world.sessions.detokenize(owner, [1] * 5_000)
            done.append(owner)

        await asyncio.gather(*map(ask, ["mallory"] * 4 + ["bob"]))
        assert done.index("bob") == 2  # after the one that ran and the one that came before it


@pytest.mark.parametrize(
    ("limits", "name"),
    [(make_limits(9, 9), "max_input_tokens"), (make_limits(99, 9, max_input_bytes=9), "max_input_bytes")],
)
async def test_a_text_has_a_bound_in_bytes_and_in_tokens(limits: Limits, name: str) -> None:
    """Above it, turns and tokenizing are refused with the bound's name."""
    async with running_world(Plan(limits=limits)) as world:
        await world.sessions.tokenize("ann", marked_text(9))
        for call in (
            world.sessions.tokenize("ann", marked_text(10)),
            world.sessions.predict(Caller("ann"), PredictionRequest(marked_text(10))),
        ):
            with pytest.raises(InvalidRequest, match=f"^input: .*{name}"):
                await call


async def test_long_texts_of_one_owner_do_not_keep_anothers_waiting() -> None:
    """A long text waits for at most one of another owner's, however many that one has sent before."""
    async with running_world(Plan(limits=make_limits(100_000, 10))) as world:
        done: list[str] = []

        async def tokenize(owner: str) -> None:
            await world.sessions.tokenize(owner, "ab" * 2_000)
            done.append(owner)

        await asyncio.gather(*(tokenize("mallory") for _ in range(20)), tokenize("bob"))
        assert done.index("bob") <= 2
