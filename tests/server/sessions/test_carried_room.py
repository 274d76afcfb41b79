"""What streams carry without a session is bounded in bytes and shared among owners, as sessions are."""

import asyncio
import random

import pytest
from tests.bounds import make_bounds
from tests.fakes import GatedModel
from tests.worlds import Plan, World, running_world

from carousel.errors import CarouselError, Overloaded, SessionEvicted
from carousel.sessions.carried_room import CarriedRoom
from carousel.sessions.conversation import Conversation
from carousel.sessions.operations import Point
from carousel.sessions.order import Key
from carousel.sessions.requests import Caller, PredictionRequest
from carousel.sessions.resident import Plain


class Carrier:
    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.is_busy = False
        self.is_given_up = False

    def give_up(self) -> Key | None:
        self.is_given_up = True
        return None


def enter(room: CarriedRoom, owner: str) -> Carrier:
    while (victim := room.find_victim(owner)) is not None:
        victim.give_up()
    carrier = Carrier(owner)
    room.enter(owner, carrier)
    return carrier


def make_room(count: int, *, evicts: bool = True) -> CarriedRoom:
    return CarriedRoom(10 * count + 9, 10, evicts=evicts)


def test_an_owner_alone_may_have_all_of_it() -> None:
    """And no more: he is refused, and loses nothing that he has."""
    room = make_room(4)
    carriers = [enter(room, "ann") for _ in range(4)]
    with pytest.raises(Overloaded) as error:
        enter(room, "ann")
    assert error.value.limit == "max_carried_bytes"
    assert not any(one.is_given_up for one in carriers)
    room.leave("ann", carriers[0])
    room.leave("ann", carriers[0])
    enter(room, "ann")


def test_whoever_has_less_than_his_share_gets_what_was_not_used_for_longest() -> None:
    """Of the owner furthest above his; up to his share."""
    room = make_room(8)
    anns = [enter(room, "ann") for _ in range(6)]
    bobs = [enter(room, "bob") for _ in range(2)]
    room.touch("ann", anns[0])
    for _ in range(2):
        bobs.append(enter(room, "bob"))
    assert [one.is_given_up for one in anns] == [False, True, True, False, False, False]
    with pytest.raises(Overloaded):
        enter(room, "bob")
    assert not any(one.is_given_up for one in bobs)
    for owner in ("cas", "dan"):
        enter(room, owner)
        enter(room, owner)
    assert sum(not one.is_given_up for one in anns) == sum(not one.is_given_up for one in bobs) == 2


def test_what_is_in_use_stays() -> None:
    room = make_room(2)
    carriers = [enter(room, "ann") for _ in range(2)]
    carriers[0].is_busy = True
    enter(room, "bob")
    assert [one.is_given_up for one in carriers] == [False, True]
    with pytest.raises(Overloaded):
        enter(room, "cas")


def test_nobody_gives_way_where_nothing_is_evicted() -> None:
    room = make_room(2, evicts=False)
    carriers = [enter(room, "ann") for _ in range(2)]
    with pytest.raises(Overloaded):
        enter(room, "bob")
    assert not any(one.is_given_up for one in carriers)


def test_the_bound_holds_whatever_happens() -> None:
    """And nobody who is below his share loses anything."""
    dice = random.Random(1)
    room, present = make_room(20), list[Carrier]()
    for _ in range(5000):
        owner = dice.choice("abcdef")
        if dice.random() < 0.3 and present:
            gone = present.pop(dice.randrange(len(present)))
            room.leave(gone.owner, gone)
            continue
        counts = {one: sum(other.owner == one for other in present) for one in "abcdef"}
        num_owners = sum(1 for one in counts if counts[one] or one == owner)
        try:
            present.append(enter(room, owner))
        except Overloaded:
            assert len(present) == 20
            assert counts[owner] + 1 > room._max_bytes / 10 / num_owners
        for one in [one for one in present if one.is_given_up]:
            present.remove(one)
            assert counts[one.owner] > room._max_bytes / 10 / num_owners
        assert len(present) <= 20
        assert room._shares.total == 10 * len(present)


# With real sequences.


async def say(talk: Conversation, token: int = 2, *, state: bytes = b"", is_plain: bool = True) -> int:
    """As a transport does it; the position."""
    if is_plain and not state and (named := await talk.answer_plain(Plain(token, 5))) is not None:
        return named.position
    found = await talk.answer(PredictionRequest((token,), 5), Caller("", state=state))
    return found.standing.position


def begin(world: World, owner: str) -> Conversation:
    talk = world.sessions.converse(owner)
    talk.name("")
    return talk


@pytest.mark.parametrize("num_slots_bytes", [0, 2**20])
@pytest.mark.parametrize("num_said", [1, 2, 3])
async def test_a_sequence_that_made_room_says_so_from_then_on(num_said: int, num_slots_bytes: int) -> None:
    """It does not begin anew by itself, wherever it was carried, and others go on as they were."""
    plan = Plan(carried_room=make_room(4), bounds=make_bounds(max_held_bytes=num_slots_bytes))
    async with running_world(plan) as world:
        anns = [begin(world, "ann") for _ in range(4)]
        for _ in range(num_said):
            for talk in anns:
                await say(talk)
        bob = begin(world, "bob")
        assert await say(bob) == 1
        for _ in range(2):
            with pytest.raises(SessionEvicted):
                await say(anns[0])
            with pytest.raises(SessionEvicted):
                await say(anns[0], is_plain=False)
        assert [await say(talk) for talk in anns[1:]] == [num_said + 1] * 3
        assert await say(bob) == 2
        late = begin(world, "ann")
        with pytest.raises(Overloaded):
            await say(late)
        await anns[1].close()
        assert await say(late) == 1
        for talk in (*anns, bob, late):
            await talk.close()
        assert "(0 of" in repr(world.carried)
        assert "(0 of" in repr(world.carried.room)
        assert world.engine.columns.num_used == 0


async def test_sealed_states_that_streams_carry_count_too() -> None:
    """A stream that brings a state after what it carried had to go goes on from that."""
    async with running_world(Plan(carried_room=make_room(1))) as world:
        await world.open()
        sealed, _ = await world.operations.export("ann", "s", Point(), 50)
        ann, bob, late = begin(world, "ann"), begin(world, "bob"), begin(world, "ann")
        found = await ann.answer(PredictionRequest((3,), 5), Caller("ann", state=sealed))
        with pytest.raises(Overloaded):
            await late.answer(PredictionRequest((3,), 5), Caller("ann"))
        with pytest.raises(Overloaded):
            await bob.answer(PredictionRequest((3,), 5), Caller("bob"))
        world.plan.carried_room._max_bytes = 29  # so that bob's share is one
        world.plan.carried_room.enter("ann", Carrier("ann"))
        assert await say(bob) == 1
        with pytest.raises(SessionEvicted):
            await ann.answer(PredictionRequest((3,), 5), Caller("ann"))
        with pytest.raises(Overloaded):
            await ann.answer(PredictionRequest((3,), 5), Caller("ann", state=found.standing.state))
        await bob.close()
        again = await ann.answer(PredictionRequest((3,), 5), Caller("ann", state=found.standing.state))
        assert again.standing.position == 2
        assert (await ann.answer(PredictionRequest((3,), 5), Caller("ann"))).standing.position == 3
        await ann.close()


async def test_what_fails_at_once_takes_no_room() -> None:
    """Nor does what never says anything."""
    async with running_world(Plan(carried_room=make_room(1))) as world:
        for _ in range(3):
            talk = begin(world, "ann")
            with pytest.raises(CarouselError):
                await talk.answer(PredictionRequest((99,), 5), Caller("ann"))
            with pytest.raises(CarouselError):
                await talk.answer(PredictionRequest((9,), 5), Caller("ann", state=b"no state"))
        assert await say(begin(world, "ann")) == 1


async def test_what_is_used_is_not_what_must_go() -> None:
    """Held ones are used too, in whatever way they are asked."""

    class Sink:
        is_over = False

        def put(self, outcome: object) -> None:
            pass

    async with running_world(Plan(carried_room=make_room(4))) as world:
        anns = [begin(world, "ann") for _ in range(4)]
        for talk in anns:
            await say(talk)
            await say(talk)
        assert anns[0].begin_plain(Plain(2, 5), Sink())
        await say(anns[1])
        await say(anns[2], is_plain=False)
        await say(begin(world, "bob"))
        assert await say(anns[2]) == 4
        with pytest.raises(SessionEvicted):
            await say(anns[3])
        for talk in anns:
            await talk.close()


async def test_a_sequence_in_use_makes_no_room() -> None:
    """It is answered, and carried on."""
    async with running_world(Plan(carried_room=make_room(2))) as world:
        anns = [begin(world, "ann") for _ in range(2)]
        for talk in anns:
            await say(talk)
        anns[0]._is_asked = True
        assert await say(begin(world, "bob")) == 1
        anns[0]._is_asked = False
        assert await say(anns[0]) == 2
        with pytest.raises(SessionEvicted):
            await say(anns[1])
        for talk in anns:
            await talk.close()


async def test_a_turn_that_runs_keeps_its_sequence() -> None:
    """Also where nobody awaits it."""

    class Sink:
        is_over = False
        outcome: object = None

        def put(self, outcome: object) -> None:
            self.outcome = outcome

    model = GatedModel()
    async with running_world(Plan(model, carried_room=make_room(2))) as world:
        anns = [begin(world, "ann") for _ in range(2)]
        for talk in anns:
            await say(talk)
            await say(talk)
        model.close()
        sink = Sink()
        assert anns[0].begin_plain(Plain(2, 5), sink)
        world.plan.carried_room.touch("ann", anns[1])
        assert world.plan.carried_room.find_victim("bob") is anns[1]
        model.gate.set()
        while sink.outcome is None:
            await asyncio.sleep(0.001)
        for talk in anns:
            await talk.close()


async def test_who_had_to_go_asks_for_room_anew() -> None:
    """Also if the first thing after that is a state that he brings."""
    async with running_world(Plan(carried_room=make_room(2))) as world:
        await world.open()
        sealed, _ = await world.operations.export("ann", "s", Point(), 50)
        anns = [begin(world, "ann") for _ in range(2)]
        for talk in anns:
            await say(talk)
        await say(begin(world, "bob"))
        with pytest.raises(Overloaded):
            await anns[0].answer(PredictionRequest((3,), 5), Caller("ann", state=sealed))
        await anns[1].close()
        assert (await anns[0].answer(PredictionRequest((3,), 5), Caller("ann", state=sealed))).standing.position == 1
        await anns[0].close()
