"""Wherever a turn is when its caller gives up, its lane comes free, other turns do not change, and the end comes
once."""

import asyncio
import contextlib
import gc
import random
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.bounds import make_bounds
from tests.fakes import GatedModel, SlowOracle, ToyModel, same_snapshot

from carousel.engine.delivery import Ticket
from carousel.engine.engine import Engine
from carousel.errors import ModelFailed, ShuttingDown
from carousel.metrics import Metrics
from carousel.turns import Ended, Event, Generate, Generated, Predict, Predicted, Sampling, Turn

GREEDY = Sampling(seed=0, temperature=0)


@contextlib.asynccontextmanager
async def started(registry: CollectorRegistry | None = None, **bounds: Any) -> AsyncIterator[tuple[Engine, GatedModel]]:
    model = GatedModel()
    engine = Engine(model, 0, make_bounds(**bounds), Metrics(registry or CollectorRegistry()))
    await engine.start()
    try:
        yield engine, model
    finally:
        model.gate.set()
        await engine.stop()


def generation(engine: Engine, num_tokens: int = 100_000) -> Turn:
    return Turn(engine.start_snapshot, (1, 2), Generate(GREEDY, num_tokens))


async def ending(ticket: Ticket) -> Ended:
    while True:
        last = (await ticket.next_events())[-1]
        if isinstance(last, Ended):
            return last


async def assert_whole(engine: Engine) -> None:
    """Checks that all lanes are free, nothing waits, and as many turns as lanes run side by side and are right."""
    while not repr(engine).startswith("Engine(Scheduler(0 of"):
        await asyncio.sleep(0)
    assert "0 queued" in repr(engine)
    oracle = SlowOracle(ToyModel())
    expected, snapshot = oracle.greedy(oracle.start(), (5, 6), 4)
    tickets = [engine.submit(Turn(engine.start_snapshot, (5, 6), Generate(GREEDY, 4))) for _ in range(4)]
    for ticket in tickets:
        events: list[Event] = []
        while not (events and isinstance(events[-1], Ended)):
            events.extend(await ticket.next_events())
        assert [event.id for event in events if isinstance(event, Generated)] == expected
        assert isinstance(events[-1], Ended)
        assert same_snapshot(events[-1].snapshot, snapshot)


@pytest.mark.parametrize("is_broken", [False, True])
async def test_the_queue_is_reported_as_it_empties(is_broken: bool) -> None:
    """A turn that gives up in the queue leaves the gauge at once, even if no step ends after it; so do all turns when
    the server ends them."""
    registry = CollectorRegistry()
    async with started(registry, max_lanes=1) as (engine, model):
        running, waiting = engine.submit(generation(engine)), engine.submit(generation(engine))
        while registry.get_sample_value("carousel_queued_turns") != 1:
            await running.next_events()
        model.close()
        await model.until_held()
        if is_broken:
            await engine.drain(0)
        else:
            waiting.cancel()
        assert registry.get_sample_value("carousel_queued_turns") == 0
        assert not model.gate.is_set()


async def test_cancelled_before_the_engine_saw_it() -> None:
    """A turn cancelled in the moment of its submission never reaches the model."""
    async with started(max_lanes=2) as (engine, model):
        num_steps = len(model.steps)
        engine.submit(generation(engine)).cancel()
        await asyncio.sleep(0)
        assert len(model.steps) == num_steps
        await assert_whole(engine)


async def test_cancelled_while_queued() -> None:
    """A turn cancelled in the queue leaves it at once; the one that runs and the one behind it go on."""
    async with started(max_lanes=1) as (engine, model):
        running = engine.submit(generation(engine, 5))
        model.close()
        await model.until_held()
        queued, behind = engine.submit(generation(engine)), engine.submit(generation(engine, 3))
        queued.cancel()
        assert "1 queued" in repr(engine)
        model.gate.set()
        assert (await ending(running)).snapshot.position == 7
        assert (await ending(behind)).snapshot.position == 5
        await assert_whole(engine)


async def test_cancelled_in_its_first_step() -> None:
    """A turn cancelled while its admitting step runs frees its lane when that step is done."""
    async with started(max_lanes=1) as (engine, model):
        ticket = engine.submit(generation(engine))
        model.close()
        await model.until_held()
        ticket.cancel()
        assert "1 of 1 lanes busy" in repr(engine)
        model.gate.set()
        await assert_whole(engine)


async def test_cancelled_in_a_later_step_beside_others() -> None:
    """A turn cancelled mid-step leaves its batch mate's tokens as they would have been."""
    async with started(max_lanes=2) as (engine, model):
        doomed, mate = engine.submit(generation(engine)), engine.submit(generation(engine, 30))
        await doomed.next_events()
        model.close()
        await model.until_held()
        doomed.cancel()
        model.gate.set()
        oracle = SlowOracle(ToyModel())
        assert same_snapshot((await ending(mate)).snapshot, oracle.greedy(oracle.start(), (1, 2), 30)[1])
        await assert_whole(engine)


async def test_cancelled_in_the_step_that_would_have_failed_it() -> None:
    """A turn that is cancelled while the model raises is not told twice, and its lane is free."""
    async with started(max_lanes=2) as (engine, model):
        model.poison_id = 1
        ticket = engine.submit(Turn(engine.start_snapshot, (1,), Predict(1)))
        model.close()
        await model.until_held()
        ticket.cancel()
        model.gate.set()
        model.poison_id = None
        await assert_whole(engine)


async def test_cancelled_after_the_end_or_twice() -> None:
    """A second cancel, or one after the end, changes nothing."""
    async with started(max_lanes=4) as (engine, _):
        ticket = engine.submit(generation(engine, 2))
        await ending(ticket)
        ticket.cancel()
        ticket.cancel()
        await assert_whole(engine)


async def test_closing_the_iterator_cancels() -> None:
    """A follower that breaks out after some tokens gives its lane back."""
    async with started(max_lanes=1) as (engine, _):
        async with contextlib.aclosing(engine.follow(generation(engine))) as batches:
            async for events, _ in batches:
                assert events
                break
        await assert_whole(engine)


@pytest.mark.parametrize("is_running", [True, False])
async def test_cancelling_the_following_task_cancels(is_running: bool) -> None:
    """A task that is cancelled while it waits for events releases its running or queued turn."""
    async with started(max_lanes=1) as (engine, model):
        other = None if is_running else engine.submit(generation(engine))

        async def follow() -> None:
            async with contextlib.aclosing(engine.follow(generation(engine))) as batches:
                async for _ in batches:
                    pass

        task = asyncio.create_task(follow())
        model.close()
        await model.until_held()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if other is not None:
            other.cancel()
        model.gate.set()
        await assert_whole(engine)


@pytest.mark.parametrize("seed", range(6))
async def test_cancelled_at_random_points(seed: int) -> None:
    """A third of 60 turns in 3 lanes are given up at random: the rest are right, and all lanes are free."""
    dice = random.Random(seed)
    oracle = SlowOracle(ToyModel())
    async with started(max_lanes=3, max_chunk_tokens=2) as (engine, _):

        async def caller() -> None:
            ids = tuple(dice.randrange(16) for _ in range(dice.randrange(6)))
            num_tokens, patience = dice.randrange(8), dice.choice([0, 1, 2, 5, 99, 99, 99, 99])
            events: list[Event] = []
            async with contextlib.aclosing(
                engine.follow(Turn(oracle.start(), ids, Generate(GREEDY, num_tokens)))
            ) as it:
                async for batch, _ in it:
                    events.extend(batch)
                    if len(events) > patience:
                        return
            assert isinstance(events[-1], Ended)
            tokens, snapshot = oracle.greedy(oracle.start(), ids, num_tokens)
            assert [event.id for event in events if isinstance(event, Generated)] == tokens
            assert same_snapshot(events[-1].snapshot, snapshot)

        tasks = []
        for _ in range(60):
            tasks.append(asyncio.create_task(caller()))
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)
            if dice.random() < 0.2:
                dice.choice(tasks).cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError)
        await assert_whole(engine)


async def test_stop_ends_turns_in_every_phase_once() -> None:
    """Running, queued and half-read turns all end with ShuttingDown; a cancelled one gets nothing."""
    async with started(max_lanes=2) as (engine, model):
        half_read, running = engine.submit(generation(engine)), engine.submit(generation(engine))
        await half_read.next_events()
        queued, cancelled = engine.submit(generation(engine)), engine.submit(generation(engine))
        model.close()
        await model.until_held()
        cancelled.cancel()
        stopping = asyncio.create_task(engine.stop())
        await asyncio.sleep(0)
        model.gate.set()
        await stopping
        for ticket in (half_read, running, queued):
            with pytest.raises(ShuttingDown):
                await ending(ticket)
            with pytest.raises(ShuttingDown):  # the error stays the last event
                await ticket.next_events()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(cancelled.next_events(), 0.01)
        with pytest.raises(ShuttingDown):
            engine.submit(generation(engine))
        assert "Scheduler(0 of 2 lanes busy, 0 queued)" in repr(engine)


async def test_stop_leaves_no_thread_and_no_task() -> None:
    """After stop the model's thread is gone and no task of the engine is left."""
    before = threading.active_count()
    async with started() as (engine, _):
        await ending(engine.submit(generation(engine, 2)))
    gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("model")]
    assert threading.active_count() <= before + 1  # the loop's own executor, which ran the shutdown
    assert len(asyncio.all_tasks()) == 1


async def test_an_engine_that_was_never_started_can_be_stopped() -> None:
    """Stop cleans up after a start that failed or did not happen."""
    engine = Engine(ToyModel(), 0, make_bounds(), Metrics(CollectorRegistry()))
    await engine.stop()
    with pytest.raises(ShuttingDown):
        engine.check_open()


async def test_drain_waits_for_the_queued_too() -> None:
    """All accepted turns finish in a drain, even those that had no lane yet."""
    async with started(max_lanes=1) as (engine, _):
        tickets = [engine.submit(generation(engine, 4)) for _ in range(5)]
        await engine.drain(20)
        assert [(await ending(ticket)).snapshot.position for ticket in tickets] == [6] * 5


async def test_drain_of_an_idle_engine_is_immediate() -> None:
    """With nothing accepted there is nothing to wait for, whatever the deadline."""
    async with started() as (engine, _):
        await asyncio.wait_for(engine.drain(1000), 1)
        with pytest.raises(ShuttingDown):
            engine.check_open()


async def test_drain_past_its_deadline_ends_every_phase_once() -> None:
    """Running and queued turns get ShuttingDown at the deadline; nothing more comes when the step is done."""
    async with started(max_lanes=1) as (engine, model):
        running, queued = engine.submit(generation(engine)), engine.submit(generation(engine))
        model.close()
        await model.until_held()
        await engine.drain(0.0)
        for ticket in (running, queued):
            with pytest.raises(ShuttingDown):
                await ticket.next_events()
        model.gate.set()
        await engine.stop()
        for ticket in (running, queued):
            with pytest.raises(ShuttingDown):
                await ticket.next_events()


async def test_a_failing_stop_check_does_not_hang_anyone() -> None:
    """If the loop itself breaks, every turn gets an error and new ones are refused: no caller waits for ever."""

    def broken(token: int) -> bool:
        raise RuntimeError(f"cannot look at {token}")

    async with started() as (engine, _):
        bad = engine.submit(Turn(engine.start_snapshot, (1,), Generate(GREEDY, 5, is_stop=broken)))
        mate = engine.submit(generation(engine))
        for ticket in (bad, mate):
            with pytest.raises(ModelFailed):
                await asyncio.wait_for(ending(ticket), 5)
        with pytest.raises(ShuttingDown):
            engine.submit(generation(engine))
        await asyncio.wait_for(engine.drain(1000), 1)


async def test_a_predict_survives_a_cancelled_twin() -> None:
    """Two turns from one snapshot share nothing: one is cancelled and the other's answer stays."""
    async with started(max_lanes=2) as (engine, model):
        one, other = (engine.submit(Turn(engine.start_snapshot, (3, 4), Predict(3))) for _ in range(2))
        model.close()
        await model.until_held()
        one.cancel()
        model.gate.set()
        events = await other.next_events()
        oracle = SlowOracle(ToyModel())
        best = int(oracle.logits(oracle.feed(oracle.start(), (3, 4))).argmax())
        assert isinstance(events[0], Predicted)
        assert events[0].candidates[0].id == best
