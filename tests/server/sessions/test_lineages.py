"""A turn goes on from the end of an earlier one: in its session while that stands there, in a new one otherwise. It
happens once, and leaves nothing where it fails."""

import asyncio
from dataclasses import replace

import pytest
from tests.fakes import Fault, GatedModel
from tests.server.sessions.sequence_turns import faults_of, faulty_plan
from tests.worlds import LIFETIMES, Plan, World, running_world

from carousel.errors import (
    AnswerGone,
    InvalidRequest,
    Overloaded,
    PermissionDenied,
    PositionUnknown,
    SessionDeleted,
    SessionEnded,
    SessionMoved,
    SessionNotFound,
    StoreUnavailable,
)
from carousel.sessions.deeds import derive_id
from carousel.sessions.ledger import Origin
from carousel.sessions.operations import Point
from carousel.sessions.requests import Caller, GenerationPiece, GenerationRequest, Lineage, Waypoint
from carousel.state.memory import MemoryStore
from carousel.state.store import Capacity
from carousel.turns import SamplingOptions

ASKED = GenerationRequest((1, 2), SamplingOptions(temperature=0), max_tokens=3)


async def follow(
    world: World,
    after: Waypoint | None = None,
    request_id: str = "",
    request: GenerationRequest = ASKED,
    owner: str = "ann",
    **changes: object,
) -> GenerationPiece:
    """Returns the last piece, whose text and tokens are those of all."""
    lineage = replace(Lineage(after, memo="memo"), **changes)  # type: ignore[arg-type]
    caller = Caller(owner, request_id=request_id, lineage=lineage)
    pieces = [one async for one in world.sessions.generate(caller, request)]
    assert len({one.receipt for one in pieces}) == 1
    tokens = tuple(token for one in pieces for token in one.tokens)
    return replace(pieces[-1], tokens=tokens, text="".join(one.text for one in pieces))


def end_of(piece: GenerationPiece) -> Waypoint:
    assert piece.receipt is not None
    assert piece.receipt.waypoint is not None
    return piece.receipt.waypoint


def position_of(piece: GenerationPiece) -> int:
    assert piece.end is not None
    return piece.end.standing.position


async def sessions_of(world: World) -> list[str]:
    return [row.id for row in await world.operations.list_owned("ann", (0.0, ""), 100)]


async def test_a_first_turn_makes_a_session() -> None:
    """It stands at the turn's end, and has its answer."""
    async with running_world() as world:
        one = await follow(world)
        assert await sessions_of(world) == [end_of(one).session_id]
        assert position_of(one) == 5
        answer, memo = await world.sessions.recall("ann", end_of(one))
        assert (answer.text, answer.tokens, memo) == (one.text, one.tokens, "memo")


async def test_the_newest_end_goes_on() -> None:
    """Two turns are what one session would have had."""
    async with running_world() as world:
        one = await follow(world)
        two = await follow(world, end_of(one))
        assert end_of(two).session_id == end_of(one).session_id
        assert position_of(two) == 10
        ids = [*ASKED.input, *[token.id for token in one.tokens], *ASKED.input]
        whole = await follow(world, request=replace(ASKED, input=tuple(ids)))
        assert whole.tokens == two.tokens


async def test_an_older_end_gets_a_session_of_its_own() -> None:
    """The first session stays where it was, and both go on."""
    async with running_world() as world:
        one = await follow(world)
        two = await follow(world, end_of(one))
        fork = await follow(world, end_of(one))
        assert end_of(fork).session_id != end_of(one).session_id
        assert (fork.tokens, position_of(fork)) == (two.tokens, 10)
        assert (await world.operations.get("ann", end_of(one).session_id)).position == 10
        origin = (await world.operations.history("ann", end_of(fork).session_id)).origin
        assert origin == Origin(end_of(one).session_id, end_of(one).incarnation, 5)
        again = await follow(world, end_of(fork))
        assert end_of(again).session_id == end_of(fork).session_id
        assert len(await sessions_of(world)) == 2


async def test_of_two_at_once_one_goes_on_and_one_forks() -> None:
    """Neither follows the other's text."""
    async with running_world() as world:
        one = await follow(world)
        two, three = await asyncio.gather(follow(world, end_of(one)), follow(world, end_of(one)))
        found = {end_of(two).session_id, end_of(three).session_id}
        assert len(found) == 2
        assert end_of(one).session_id in found
        assert two.tokens == three.tokens
        assert (position_of(two), position_of(three)) == (10, 10)


async def test_a_session_that_others_moved_is_forked() -> None:
    """Also by calls that know nothing of lineages."""
    async with running_world() as world:
        one = await follow(world)
        async for _ in world.sessions.generate(Caller("ann", end_of(one).session_id), ASKED):
            pass
        assert end_of(await follow(world, end_of(one))).session_id != end_of(one).session_id


async def test_checkpoints_do_not_change_what_is_newest() -> None:
    """They move nothing."""
    async with running_world() as world:
        one = await follow(world)
        await world.operations.mark("ann", end_of(one).session_id, "here")
        assert end_of(await follow(world, end_of(one))).session_id == end_of(one).session_id


async def test_what_was_rewound_is_gone() -> None:
    """And the end that was gone back to is the newest again."""
    async with running_world() as world:
        one = await follow(world)
        two = await follow(world, end_of(one))
        await world.operations.rewind("ann", end_of(one).session_id, Point(position=5), None)
        with pytest.raises(PositionUnknown):
            await follow(world, end_of(two))
        assert end_of(await follow(world, end_of(one))).session_id == end_of(one).session_id


async def test_ends_are_retained_up_to_the_bound() -> None:
    """An older one is gone."""
    async with running_world() as world:
        ends = [await follow(world)]
        for _ in range(9):
            ends.append(await follow(world, end_of(ends[-1])))
        with pytest.raises(PositionUnknown):
            await follow(world, end_of(ends[0]))
        assert position_of(await follow(world, end_of(ends[1]))) == 15


async def test_the_session_must_be_the_same_one() -> None:
    """Not of another owner, not one that has ended, not another one under its id."""
    async with running_world() as world:
        one = end_of(await follow(world))
        with pytest.raises(SessionNotFound):
            await follow(world, one, owner="bob")
        await world.operations.delete("ann", one.session_id)
        with pytest.raises(SessionDeleted):
            await follow(world, one)
        await world.operations.create("ann", one.session_id)
        for work in (follow(world, one), world.sessions.recall("ann", one), world.sessions.forget("ann", one)):
            with pytest.raises(SessionEnded):
                await work
        assert (await world.operations.get("ann", one.session_id)).position == 0


@pytest.mark.parametrize("kind", ["first", "newest", "older"])
async def test_a_repeat_gets_the_first_answer(kind: str) -> None:
    """With its name and its memo, one after the other and at once; nothing happens twice."""
    async with running_world() as world:
        after = None if kind == "first" else end_of(await follow(world))
        if kind == "older":
            await follow(world, after)
        num_sessions = len(await sessions_of(world))
        hot = replace(ASKED, sampling=SamplingOptions(temperature=5))
        tries = [follow(world, after, "r", hot) for _ in range(2)]
        found = [*await asyncio.gather(*tries), await follow(world, after, "r", hot, memo="another")]
        assert len({(one.tokens, one.receipt) for one in found}) == 1
        assert len({position_of(one) for one in found}) == 1
        assert len(await sessions_of(world)) == num_sessions + (kind != "newest")
        for wrong in (replace(hot, max_tokens=4), replace(hot, input=(3,))):
            with pytest.raises(InvalidRequest, match="request_id"):
                await follow(world, after, "r", wrong)


async def test_a_request_id_is_for_one_end() -> None:
    """The same request after another end is another request."""
    async with running_world() as world:
        one = end_of(await follow(world, request_id="r"))
        with pytest.raises(InvalidRequest):
            await follow(world, one, "r")
        two = end_of(await follow(world, one, "q"))
        with pytest.raises(InvalidRequest):
            await follow(world, two, "q")


async def test_a_repeat_follows_the_first_attempt_after_a_rewind() -> None:
    """The fork that it made is found, though the end would be the newest now."""
    async with running_world() as world:
        one = end_of(await follow(world))
        await follow(world, one)
        fork = await follow(world, one, "r")
        await world.operations.rewind("ann", one.session_id, Point(position=5), None)
        assert (await follow(world, one, "r")).receipt == fork.receipt
        assert (await world.operations.get("ann", one.session_id)).position == 5


async def test_an_answer_that_is_not_kept_is_not_made_again() -> None:
    """Too large, or forgotten."""
    async with running_world(Plan(settings={"max_answer_bytes": 10})) as world:
        one = await follow(world, request_id="r")
        with pytest.raises(AnswerGone):
            await follow(world, request_id="r")
        with pytest.raises(PositionUnknown):
            await world.sessions.recall("ann", end_of(one))
        assert len(await sessions_of(world)) == 1


async def test_an_unkept_turn_changes_nothing() -> None:
    """From the start, from the newest end and from an older one."""
    async with running_world() as world:
        one = await follow(world)
        two = await follow(world, end_of(one))
        for after, expected in ((None, one), (end_of(one), two)):
            found = await follow(world, after, is_kept=False)
            assert (found.tokens, found.receipt and found.receipt.waypoint) == (expected.tokens, None)
        assert len(await sessions_of(world)) == 1
        assert (await world.operations.get("ann", end_of(one).session_id)).position == 10


async def test_making_a_session_may_be_refused() -> None:
    """Going on, where the session stands, needs no leave."""

    def refuse() -> None:
        raise PermissionDenied("no")

    async with running_world() as world:
        one = end_of(await follow(world))
        with pytest.raises(PermissionDenied):
            await follow(world, check_founding=refuse)
        await follow(world, one, check_founding=refuse)
        with pytest.raises(PermissionDenied):
            await follow(world, one, check_founding=refuse)
        assert len(await sessions_of(world)) == 1


async def test_the_newest_forgotten_ends_the_session() -> None:
    """And with it all its ends."""
    async with running_world() as world:
        one = end_of(await follow(world))
        two = end_of(await follow(world, one))
        await world.sessions.forget("ann", two)
        for end in (one, two):
            with pytest.raises(SessionDeleted):
                await world.sessions.recall("ann", end)


async def test_an_older_end_is_forgotten_alone() -> None:
    """The session goes on, and a repeat of the forgotten turn is told."""
    async with running_world() as world:
        one = end_of(await follow(world, request_id="r"))
        two = end_of(await follow(world, one))
        await world.sessions.forget("ann", one)
        for work in (follow(world, one), world.sessions.recall("ann", one), world.sessions.forget("ann", one)):
            with pytest.raises(PositionUnknown):
                await work
        with pytest.raises(AnswerGone):
            await follow(world, request_id="r")
        await world.sessions.recall("ann", two)
        assert end_of(await follow(world, two)).session_id == two.session_id


async def test_a_failed_turn_leaves_nothing() -> None:
    """No session, and the same request can be made again."""
    async with running_world(faulty_plan()) as world:
        faults_of(world).faults[Fault.BEFORE_WRITE] = 1
        with pytest.raises(StoreUnavailable):
            await follow(world, request_id="r")
        assert await sessions_of(world) == []
        await follow(world, request_id="r")
        assert len(await sessions_of(world)) == 1


async def test_a_write_whose_answer_is_lost_is_found_by_the_repeat() -> None:
    """The turn has happened, and happens no second time."""
    async with running_world(faulty_plan()) as world:
        faults_of(world).faults[Fault.AFTER_WRITE] = 1
        with pytest.raises(StoreUnavailable):
            await follow(world, request_id="r")
        (session_id,) = await sessions_of(world)
        assert end_of(await follow(world, request_id="r")).session_id == session_id
        assert (await world.operations.get("ann", session_id)).revision == 0


async def test_a_cancelled_turn_leaves_nothing() -> None:
    """Its caller never knew the session's id."""
    async with running_world(Plan(model=GatedModel())) as world:
        model = world.plan.model
        assert isinstance(model, GatedModel)
        model.close()
        turn = asyncio.create_task(follow(world))
        await model.until_held()
        turn.cancel()
        model.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await turn
        assert await sessions_of(world) == []


async def test_where_another_server_was_faster_the_caller_repeats() -> None:
    """Two servers that answer one request at once make one session."""

    async def pause(name: str) -> None:
        if name == "create":
            birth = world.ledger.open(
                derive_id("ann", "after r", 0), "ann", 7, world.codec.encode(world.oracle.start())
            )
            await faults_of(world).inner.create([birth])

    async with running_world(faulty_plan(pause)) as world:
        with pytest.raises(SessionMoved):
            await follow(world, request_id="r")
        assert len(await sessions_of(world)) == 1


async def test_a_full_store_refuses_and_changes_nothing() -> None:
    """The turn ends with the store's refusal."""
    plan = Plan(store=lambda clock: MemoryStore(Capacity(1, 2**30, evicts=False), LIFETIMES, clock=clock))
    async with running_world(plan) as world:
        await follow(world)
        with pytest.raises(Overloaded):
            await follow(world)
        assert len(await sessions_of(world)) == 1
