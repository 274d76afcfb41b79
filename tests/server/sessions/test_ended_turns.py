"""A turn that is given up or fails leaves its session as it was, and a drain lets an accepted turn finish."""

import asyncio
import contextlib

import pytest
from tests.bounds import make_bounds
from tests.fakes import GatedModel, ToyModel
from tests.server.sessions.service_turns import ANN, GREEDY, collect, generate, score, settle
from tests.worlds import Plan, running_world

from carousel.bundle.layout import Array, StateBatch
from carousel.errors import ModelFailed, Overloaded, SessionDeleted, SessionExpired, ShuttingDown
from carousel.sessions.requests import Caller, GenerationRequest, PredictionRequest, ScoringRequest
from carousel.turns import Predict, Turn


@pytest.mark.parametrize("num_pieces", [1, 5])
async def test_a_generation_that_is_given_up_leaves_the_session(num_pieces: int) -> None:
    """A close after some pieces frees the lane and leaves the session where it was, ready for a turn."""
    async with running_world() as world:
        session = await world.open()
        pieces = world.sessions.generate(ANN, GenerationRequest("ab", GREEDY, 100_000))
        async with contextlib.aclosing(pieces):
            for _ in range(num_pieces):
                await anext(pieces)
        assert await world.operations.get("ann", "s") == session
        await settle(world)
        tokens, _, _ = await generate(world, ANN, GenerationRequest("ab", GREEDY, 5))
        assert tokens == world.oracle.greedy(world.oracle.start(), (1, 2), 5)[0]


async def test_a_model_that_fails_leaves_the_session() -> None:
    """A NaN fails the turn with ModelFailed; the session answers from where it was."""
    async with running_world() as world:
        session = await world.open()
        world.plan.model.poison_id = 13
        for turn in (
            generate(world, ANN, GenerationRequest((1, 13), GREEDY, 3)),
            score(world, ANN, ScoringRequest((13, 1))),
            world.sessions.predict(ANN, PredictionRequest((13,))),
        ):
            with pytest.raises(ModelFailed):
                await turn
        assert await world.operations.get("ann", "s") == session


class _Shy(ToyModel):
    """Fails on the first call after `is_broken` was set."""

    is_broken = False

    def core(self, ids_BT: Array, lengths_B: Array, state: StateBatch) -> tuple[Array, StateBatch]:
        if self.is_broken:
            raise RuntimeError("broken")
        return super().core(ids_BT, lengths_B, state)


async def test_a_model_that_raises_mid_stream_leaves_the_session() -> None:
    """After some tokens came out, the stream ends with ModelFailed, and the session has not moved."""
    model = _Shy()
    async with running_world(Plan(model=model)) as world:
        session = await world.open()
        pieces = world.sessions.generate(ANN, GenerationRequest("ab", GREEDY, 100_000))
        async with contextlib.aclosing(pieces):
            await anext(pieces)
            model.is_broken = True
            with pytest.raises(ModelFailed):
                async for _ in pieces:
                    pass
        assert await world.operations.get("ann", "s") == session
        model.is_broken = False
        await generate(world, ANN, GenerationRequest("ab", GREEDY, 2))


async def test_a_session_that_is_deleted_mid_stream_ends_the_turn() -> None:
    """A generation on a deleted session cannot be saved and reports that."""
    async with running_world() as world:
        await world.open()
        pieces = world.sessions.generate(ANN, GenerationRequest("ab", GREEDY, 3000))
        await anext(pieces)
        await world.operations.delete("ann", "s")
        with pytest.raises(SessionDeleted):
            async for _ in pieces:
                pass
        with pytest.raises(SessionDeleted):
            await world.operations.get("ann", "s")


async def test_a_session_that_becomes_too_old_mid_stream_is_acknowledged_first() -> None:
    """The turn is saved with its last token; then the session has expired."""
    async with running_world() as world:
        await world.open()
        pieces = world.sessions.generate(ANN, GenerationRequest("ab", GREEDY, 3000))
        await anext(pieces)
        world.clock.advance(5000)
        last = [piece async for piece in pieces][-1]
        assert last.end is not None
        assert last.end.standing.position == 3002
        with pytest.raises(SessionExpired):
            await world.operations.get("ann", "s")


async def test_overload_and_shutdown_are_told_before_anything_is_looked_at() -> None:
    """With a full queue or a closed engine, even an unknown session gets that answer, and no text is tokenized."""
    model = GatedModel()
    async with running_world(
        Plan(model=model, bounds=make_bounds(max_lanes=1, max_short_lanes=0, max_queued_turns=1))
    ) as world:
        nobody = Caller("ann", "nothing")
        model.close()
        tickets = [world.engine.submit(Turn(world.engine.start_snapshot, (1,), Predict(1)))]
        await model.until_held()  # the lane is then busy, and the next one stays in the queue
        tickets.append(world.engine.submit(Turn(world.engine.start_snapshot, (1,), Predict(1))))
        with pytest.raises(Overloaded):
            await world.sessions.predict(nobody, PredictionRequest("a" * 100_000))
        with pytest.raises(Overloaded):
            await world.sessions.tokenize("ann", "a")
        with pytest.raises(Overloaded):
            await world.sessions.detokenize("ann", [1])
        for ticket in tickets:
            ticket.cancel()
        model.gate.set()
        await world.engine.drain(5)
        with pytest.raises(ShuttingDown):
            await world.sessions.predict(nobody, PredictionRequest("a"))


@pytest.mark.parametrize(
    "request_", [GenerationRequest("ab", GREEDY, 5, num_branches=3), GenerationRequest("ab", GREEDY, 5)]
)
async def test_a_drain_lets_an_accepted_turn_finish_all_of_it(request_: GenerationRequest) -> None:
    """Branches that are submitted after the input was fed finish, and so does a word search after its prediction."""
    model = GatedModel()
    async with running_world(Plan(model=model)) as world:
        model.close()
        turn = asyncio.create_task(collect(world.sessions.generate(Caller("ann"), request_)))
        words = asyncio.create_task(world.sessions.predict(Caller("ann"), PredictionRequest("ab", word_prefix="c")))
        await model.until_held()
        draining = asyncio.create_task(world.engine.drain(20))
        await asyncio.sleep(0)
        model.gate.set()
        ends = [piece.end for piece in await turn if piece.end is not None]
        assert [end.num_generated_tokens for end in ends] == [5] * request_.num_branches
        assert (await words).words
        await draining
