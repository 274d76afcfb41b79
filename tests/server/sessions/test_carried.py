"""What a stream carries without a session is the same whether it is held in the engine's columns or not, and is gone
with the stream.
"""

import random

import pytest
from tests.bounds import make_bounds
from tests.worlds import Plan, World, running_world

from carousel.errors import InvalidRequest
from carousel.sessions.conversation import Conversation
from carousel.sessions.operations import Point
from carousel.sessions.requests import Caller, PredictionRequest
from carousel.sessions.resident import Named, Plain

Answer = tuple[list[tuple[int, float]], int]
NOW = Point()


class NoSink:
    """Nothing may come."""

    is_over = False

    def put(self, outcome: Named | Exception | None) -> None:
        raise AssertionError(outcome)


async def say(talk: Conversation, ids: tuple[int, ...], *, has_words: bool = False) -> Answer:
    """As a transport does it."""
    if len(ids) == 1 and not has_words and (named := await talk.answer_plain(Plain(ids[0], 5))) is not None:
        return list(zip(named.ids, named.log_probabilities, strict=True)), named.position
    request = PredictionRequest(ids, 5, word_prefix="a" if has_words else None)
    found = await talk.answer(request, Caller("ann"))
    return [(one.id, one.log_probability) for one in found.candidates], found.standing.position


async def converse(world: World, seed: int) -> list[Answer]:
    """Several streams in turn, with everything that makes them leave the columns and come back."""
    dice = random.Random(seed)
    talks = [world.sessions.converse("ann") for _ in range(4)]
    for talk in talks:
        talk.name("")
    answers = []
    for _ in range(120):
        what, talk = dice.random(), dice.choice(talks)
        ids = tuple(dice.choices(range(16), k=1 if what < 0.8 else dice.randrange(4)))
        answers.append(await say(talk, ids, has_words=dice.random() < 0.05))
        if dice.random() < 0.1:
            await world.carried.residents.leave_all()
    for talk in talks:
        await talk.close()
    return answers


@pytest.mark.parametrize("seconds", [-1e6, 1e8, 2e9])
async def test_no_clock_ends_what_is_carried(seconds: float) -> None:
    """However far it is set: the stream is there, and so is what it carries."""
    async with running_world() as world:
        talk = world.sessions.converse("ann")
        talk.name("")
        for number in range(3):
            await say(talk, (number,))
        assert world.carried.residents.num_slots == 1
        world.clock.advance(seconds)
        await world.carried.residents.tidy()
        assert [(await say(talk, (number,)))[1] for number in range(3)] == [4, 5, 6]
        assert (await say(talk, (1, 2)))[1] == 8
        await talk.close()
        assert world.carried.residents.num_slots == 0


@pytest.mark.parametrize("seed", range(5))
async def test_what_is_carried_is_the_same_held_or_not(seed: int) -> None:
    """With fewer slots than streams, so that they push each other out; and nothing is left of it."""
    async with running_world(Plan(bounds=make_bounds(max_held_bytes=1200))) as held:
        assert 0 < held.engine.columns.num_slots < 4
        found = await converse(held, seed)
        assert held.value("held_turns_total") > 10
        assert held.engine.columns.num_used == 0
        assert "(0 of" in repr(held.carried)
    async with running_world(Plan(bounds=make_bounds(max_held_bytes=0))) as plain:
        assert await converse(plain, seed) == found
        assert plain.value("held_turns_total") == 0


async def test_what_needs_a_session_is_refused_as_ever() -> None:
    """A request id or an expected position on a stream that is held; it goes on after that."""
    async with running_world() as world:
        talk = world.sessions.converse("ann")
        talk.name("")
        for _ in range(3):
            await say(talk, (2,))
        for plain in (Plain(2, 5, "r"), Plain(2, 5, expected_position=3)):
            assert await talk.answer_plain(plain) is None
        with pytest.raises(InvalidRequest):
            await talk.answer(PredictionRequest((2,), 5), Caller("ann", request_id="r"))
        assert (await say(talk, (2,)))[1] == 4
        await talk.close()


async def test_a_sealed_state_takes_the_place_of_what_was_carried() -> None:
    """From then on the stream goes on from the state, which is given back with every answer."""
    async with running_world() as world:
        talk = world.sessions.converse("ann")
        talk.name("")
        for _ in range(3):
            await say(talk, (2,))
        await world.open()
        sealed, _position = await world.operations.export("ann", "s", NOW, 50)
        first = await talk.answer(PredictionRequest((3,), 5), Caller("ann", state=sealed))
        assert first.standing.position == 1
        assert await talk.answer_plain(Plain(3, 5)) is None
        assert not talk.begin_plain(Plain(3, 5), NoSink())
        second = await talk.answer(PredictionRequest((3,), 5), Caller("ann"))
        assert (second.standing.position, second.standing.state != b"") == (2, True)
        await talk.close()
        assert world.engine.columns.num_used == 0
