"""Whoever reads a text on a copy of a session sees the state after each token, and nothing else of it changes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from tests.bounds import make_bounds, make_limits
from tests.bundles import Sizes, write_bundle
from tests.fakes import GatedModel, ToyModel, byte_tokenizer
from tests.server.sessions.held_streams import holding
from tests.server.sessions.service_turns import ANN, score, settle
from tests.server.sessions.session_calls import feed
from tests.worlds import Plan, World, running_world

from carousel.bundle.layout import Array, Rows, StateBatch, StateLayout, StateTensor
from carousel.bundle.manifest import Bundle
from carousel.engine.model import OnnxModel
from carousel.errors import (
    InvalidRequest,
    ModelFailed,
    Overloaded,
    PermissionDenied,
    PositionUnknown,
    SessionDeleted,
    SessionNotFound,
    ShuttingDown,
)
from carousel.sessions.inspection import MAX_TOKENS, Inspected, InspectionRequest
from carousel.sessions.operations import Point
from carousel.sessions.requests import Caller, PredictionRequest, ScoringRequest
from carousel.turns import Predict, Snapshot, Turn

ON = {"inspect": True}
NOBODY = Caller("ann")  # without a session


@contextlib.asynccontextmanager
async def inspecting(plan: Plan | None = None) -> AsyncIterator[World]:
    async with running_world(replace(plan or Plan(), settings=ON)) as world:
        yield world


async def inspect(world: World, request: InspectionRequest, caller: Caller = ANN) -> list[Inspected]:
    return [moment async for moment in world.inspection.inspect(caller, request)]


def same(values: Sequence[Array], snapshot: Snapshot) -> bool:
    """Compares bit for bit."""
    return [np.asarray(one).tobytes() for one in values] == [np.asarray(one).tobytes() for one in snapshot.state]


async def test_a_state_is_that_of_the_model_after_each_token() -> None:
    """First comes the state where the reading starts, with what its values are; then one per token."""
    async with inspecting() as world:
        await world.open()
        await feed(world, 3)
        moments = await inspect(world, InspectionRequest((1, 2, 5)))
        assert moments[0].tensors == world.plan.model.layout.tensors
        assert [moment.tensors for moment in moments[1:]] == [()] * 3
        assert [moment.position for moment in moments] == [1, 2, 3, 4]
        for moment, ids in zip(moments, ((3,), (3, 1), (3, 1, 2), (3, 1, 2, 5)), strict=True):
            assert same(moment.values, world.oracle.feed(world.oracle.start(), ids))


class _RealModel(OnnxModel):
    """Real graphs with what a plan asks of its model."""

    def __init__(self, directory: Path, sizes: Sizes) -> None:
        write_bundle(directory, sizes)
        super().__init__(Bundle.load(directory))
        self.hidden_size, self.vocabulary_size = sizes.hidden_size, sizes.vocabulary_size


async def test_a_state_of_real_graphs_is_a_turns_own(tmp_path: Path) -> None:
    """It equals, bit for bit, that of a session which has consumed the same tokens in one turn."""
    model = cast(ToyModel, _RealModel(tmp_path, Sizes(hidden_size=40)))
    async with inspecting(Plan(model=model, tokenizer=byte_tokenizer())) as world:
        text = "The states of one turn, and of a turn for each token."
        moments = await inspect(world, InspectionRequest(text), NOBODY)
        for number in (1, 2, 17, len(text)):
            await world.open(f"s{number}")
            await world.sessions.predict(Caller("ann", f"s{number}"), PredictionRequest(text[:number]))
            assert same(moments[number].values, await world.snapshot(f"s{number}"))


async def test_a_token_is_rated_as_in_scoring() -> None:
    """Ids, texts, log-probabilities, ranks and candidates are the same."""
    async with inspecting() as world:
        await world.open()
        moments = await inspect(world, InspectionRequest("abcab", num_candidates=3))
        scored, _ = await score(world, ANN, ScoringRequest("abcab", num_candidates=3))
        told = [
            (one.token.id, one.token.text, one.token.log_probability, one.token.rank, one.token.candidates)
            for one in moments[1:]
            if one.token is not None
        ]
        assert told == [(one.id, one.text, one.log_probability, one.rank, one.candidates) for one in scored]
        assert [len(candidates) for *_, candidates in told] == [3] * 5


async def test_the_session_stays_as_it_is() -> None:
    """Its row, with revision and times, and all that the store has of it."""
    async with inspecting() as world:
        await world.open()
        await feed(world, 3)
        before = await world.hold()
        world.clock.advance(5)
        await inspect(world, InspectionRequest("abc"))
        assert await world.hold() == before


async def test_a_stream_that_holds_the_session_notices_nothing() -> None:
    """Its turns are in what is read, and it goes on as before."""
    async with holding(1, Plan(settings=ON)) as (world, (stream,)):
        assert stream.holds
        moments = await inspect(world, InspectionRequest((5,)), Caller("ann", "0"))
        assert same(moments[1].values, world.oracle.feed(world.oracle.start(), (1, 2, 5)))
        assert await stream.say(7) == 3
        moments = await inspect(world, InspectionRequest(), Caller("ann", "0"))
        assert same(moments[0].values, world.oracle.feed(world.oracle.start(), (1, 2, 7)))


async def test_the_reading_starts_at_any_retained_point() -> None:
    """A turn boundary, a checkpoint, or now; without a session, at the model's start."""
    async with inspecting() as world:
        await world.open()
        await feed(world, 1, 2)
        await world.operations.mark("ann", "s", "c")
        await feed(world, 3)
        for point, ids in ((Point(), (1, 2, 3)), (Point(0), ()), (Point(mark="c"), (1, 2))):
            moments = await inspect(world, InspectionRequest((5,), point))
            assert [moment.position for moment in moments] == [len(ids), len(ids) + 1]
            assert same(moments[1].values, world.oracle.feed(world.oracle.start(), (*ids, 5)))
        assert same((await inspect(world, InspectionRequest(), NOBODY))[0].values, world.oracle.start())
        for point in (Point(1), Point(mark="none")):
            with pytest.raises(PositionUnknown):
                await inspect(world, InspectionRequest((5,), point))


@pytest.mark.parametrize("nothing", ["", ()])
async def test_no_token_shows_the_state_itself(nothing: Any) -> None:
    """An empty text is no mistake, and runs nothing."""
    async with inspecting() as world:
        await world.open()
        await feed(world, 3)
        num_steps = len(world.plan.model.steps)
        (moment,) = await inspect(world, InspectionRequest(nothing))
        assert len(world.plan.model.steps) == num_steps
        assert same(moment.values, world.oracle.feed(world.oracle.start(), (3,)))


async def test_tensors_are_chosen_by_name() -> None:
    """They come in the order of the request. What is unknown or doubled is refused by name."""
    async with inspecting() as world:
        moments = await inspect(world, InspectionRequest((1, 2), tensors=("count",)), NOBODY)
        assert [tensor.name for tensor in moments[0].tensors] == ["count"]
        assert [int(one.values[0]) for one in moments] == [1, 2, 3]
        (moment,) = await inspect(world, InspectionRequest(tensors=("count", "h")), NOBODY)
        assert [tensor.name for tensor in moment.tensors] == ["count", "h"]
        assert [np.shape(array) for array in moment.values] == [(), (4,)]
        for names in (("h", "h"), ("h", "none"), ("",), ("x" * 9999,)):
            with pytest.raises(InvalidRequest) as refused:
                await inspect(world, InspectionRequest((1,), tensors=names), NOBODY)
            assert refused.value.field == "tensors"
            assert len(str(refused.value)) < 300


class _LargeModel(ToyModel):
    def __init__(self, num_values: int) -> None:
        super().__init__()
        self.layout = StateLayout((*self.layout.tensors, StateTensor("large", (num_values,), "float32")))

    def core(self, ids_BT: Array, lengths_B: Array, state: StateBatch) -> tuple[Array, StateBatch]:
        hidden_BTH, after = super().core(ids_BT, lengths_B, state[:2])
        return hidden_BTH, (*after, state[2])


async def test_a_moment_is_bounded() -> None:
    """More than a mebibyte of values is refused; fewer tensors of the same state are not."""
    beside = ToyModel().layout.num_bytes
    async with inspecting(Plan(model=_LargeModel((2**20 - beside) // 4))) as world:
        assert len(await inspect(world, InspectionRequest((1,)), NOBODY)) == 2
    async with inspecting(Plan(model=_LargeModel((2**20 - beside) // 4 + 1))) as world:
        with pytest.raises(InvalidRequest, match="name fewer tensors"):
            await inspect(world, InspectionRequest((1,)), NOBODY)
        assert len(await inspect(world, InspectionRequest((1,), tensors=("large",)), NOBODY)) == 2


async def test_a_text_is_bounded() -> None:
    """As many tokens as there may be are read; one more is refused before any is, as are the bounds of all requests."""
    plan = Plan(limits=make_limits(max_input_tokens=10_000, max_generated_tokens=1))
    async with inspecting(plan) as world:
        assert len(await inspect(world, InspectionRequest((1,) * MAX_TOKENS), NOBODY)) == MAX_TOKENS + 1
        num_steps = len(world.plan.model.steps)
        for request, field in (
            (InspectionRequest((1,) * (MAX_TOKENS + 1)), "input"),
            (InspectionRequest("a" * (MAX_TOKENS + 1)), "input"),
            (InspectionRequest((1,) * 10_001), "input"),
            (InspectionRequest((16,)), "input.tokens"),
            (InspectionRequest((-1,)), "input.tokens"),
            (InspectionRequest("a", num_candidates=65), "num_candidates"),
            (InspectionRequest("a", num_candidates=-1), "num_candidates"),
            (InspectionRequest("a", Point(0)), "point"),
            (InspectionRequest("a", Point(mark="c")), "point"),
        ):
            with pytest.raises(InvalidRequest) as refused:
                await inspect(world, request, NOBODY)
            assert refused.value.field == field
        assert len(world.plan.model.steps) == num_steps


async def test_it_is_off_unless_the_setting_is_on() -> None:
    """The refusal names the setting, and comes before anything else is looked at."""
    async with running_world() as world:
        for request in (InspectionRequest("a"), InspectionRequest((99,))):
            with pytest.raises(PermissionDenied) as refused:
                await inspect(world, request, Caller("ann", "none"))
            assert refused.value.details == {"setting": "inspect"}
            assert "inspect=true" in str(refused.value)


async def test_other_sessions_are_unknown() -> None:
    """Another owner's is as one that never was; an ended one says how it ended."""
    async with inspecting() as world:
        await world.open("hers", "ann")
        await world.open("ended")
        await world.operations.delete("ann", "ended")
        for caller, error in (
            (Caller("bob", "hers"), SessionNotFound),
            (Caller("ann", "none"), SessionNotFound),
            (Caller("ann", "no name"), SessionNotFound),
            (Caller("ann", "ended"), SessionDeleted),
        ):
            with pytest.raises(error):
                await inspect(world, InspectionRequest("a"), caller)
        assert world.is_idle


async def test_a_turn_may_run_meanwhile() -> None:
    """The session is held no longer than to read it, however slow the reader is."""
    async with inspecting() as world:
        await world.open()
        moments = world.inspection.inspect(ANN, InspectionRequest("abc"))
        async with contextlib.aclosing(moments):
            await anext(moments)
            await feed(world, 7)
            await world.operations.delete("ann", "s")
            rest = [moment async for moment in moments]
        assert same(rest[-1].values, world.oracle.feed(world.oracle.start(), (1, 2, 3)))


async def test_a_reader_between_two_tokens_holds_no_lane() -> None:
    """Others use the only lane while it waits."""
    plan = Plan(bounds=make_bounds(max_lanes=1, max_short_lanes=0))
    async with inspecting(plan) as world:
        moments = world.inspection.inspect(NOBODY, InspectionRequest("abc"))
        async with contextlib.aclosing(moments):
            for _ in range(2):
                await anext(moments)
            assert world.is_idle
            await score(world, NOBODY, ScoringRequest("ab"))
            assert len([moment async for moment in moments]) == 2


async def test_who_leaves_in_the_middle_frees_everything() -> None:
    """Whether his token runs or waits for a lane: nothing is left, and a drain need not wait for him."""
    model = GatedModel()
    plan = Plan(model=model, bounds=make_bounds(max_lanes=1, max_short_lanes=0))
    async with inspecting(plan) as world:
        await world.open()
        tasks: list[asyncio.Future[None]] = []
        for _ in range(2):
            moments = world.inspection.inspect(ANN, InspectionRequest("abc"))
            await anext(moments)
            if not tasks:
                model.close()
            tasks.append(asyncio.ensure_future(_exhaust(moments)))
            await model.until_held()
        await asyncio.sleep(0)
        assert not world.is_idle
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert world.engine._num_accepted == 0
        assert not world.engine._entries
        model.gate.set()
        await settle(world)
        await world.engine.drain(5)


async def _exhaust(moments: Any) -> None:
    async with contextlib.aclosing(moments):
        async for _ in moments:
            pass


async def test_what_is_no_number_ends_the_reading() -> None:
    """The moments before it are told. The session and the next reading are as ever."""
    async with inspecting() as world:
        await world.open()
        world.plan.model.poison_id = 13
        moments = world.inspection.inspect(ANN, InspectionRequest((1, 2, 13, 1)))
        assert [(await anext(moments)).position for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ModelFailed):
            await anext(moments)
        assert world.is_idle
        assert len(await inspect(world, InspectionRequest((1, 2)))) == 3


class _Boundless(_LargeModel):
    """One of its tensors is infinite, and another is no number: the hidden vector does not depend on them."""

    def core(self, ids_BT: Array, lengths_B: Array, state: StateBatch) -> tuple[Array, StateBatch]:
        hidden_BTH, after = super().core(ids_BT, lengths_B, state)
        rows: Rows = np.tile(np.array([np.inf, np.nan], np.float32), (len(ids_BT), 1))
        return hidden_BTH, (*after[:2], rows)


async def test_values_are_told_as_they_are() -> None:
    """Infinite ones, and what is no number, if the model's answers are sound."""
    async with inspecting(Plan(model=_Boundless(2))) as world:
        moments = await inspect(world, InspectionRequest((1,), tensors=("large",)), NOBODY)
        assert [str(moment.values[0].tolist()) for moment in moments] == ["[inf, nan]"] * 2


async def test_half_a_character_is_told_at_the_end() -> None:
    """The texts of the tokens are the whole text, what the session had left of a character included."""
    async with inspecting(Plan(model=ToyModel(256), tokenizer=byte_tokenizer())) as world:
        await world.open()
        await feed(world, *"é".encode()[:1])
        moments = await inspect(world, InspectionRequest((*"é".encode()[1:], 97, *"é".encode()[:1])))
        assert [moment.token.text for moment in moments if moment.token is not None] == ["é", "a", "\ufffd"]


async def test_a_full_line_ends_the_reading() -> None:
    """Its tokens wait for lanes as all turns do, and are refused as they are."""
    model = GatedModel()
    plan = Plan(model=model, bounds=make_bounds(max_lanes=1, max_short_lanes=0, max_queued_turns=1))
    async with inspecting(plan) as world:
        moments = world.inspection.inspect(NOBODY, InspectionRequest("abc"))
        await anext(moments)
        model.close()
        turn = Turn(world.engine.start_snapshot, (1,), Predict(1))
        running = world.engine.submit(turn)
        await model.until_held()
        waiting = world.engine.submit(turn)
        with pytest.raises(Overloaded) as refused:
            await anext(moments)
        assert refused.value.limit == "max_queued_turns"
        for ticket in (running, waiting):
            ticket.cancel()
        model.gate.set()
        assert world.engine._num_accepted == 0


async def test_a_drain_lets_it_finish_and_takes_no_new_one() -> None:
    """It counts as a request that was accepted."""
    async with inspecting() as world:
        moments = world.inspection.inspect(NOBODY, InspectionRequest("abc"))
        await anext(moments)
        draining = asyncio.ensure_future(world.engine.drain(20))
        await asyncio.sleep(0)
        with pytest.raises(ShuttingDown):
            await inspect(world, InspectionRequest("a"), NOBODY)
        assert not draining.done()
        assert len([moment async for moment in moments]) == 3
        await draining
