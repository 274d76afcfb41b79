"""The engine gives every turn what it would get alone, whatever shares its batch, and ends each one once."""

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from tests.bounds import make_bounds
from tests.fakes import GatedModel, SlowOracle, ToyModel, same_snapshot

from carousel.bundle.layout import Array, StateBatch
from carousel.engine import sampler
from carousel.engine.delivery import Ticket
from carousel.engine.engine import Engine
from carousel.errors import ModelFailed, Overloaded, ShuttingDown
from carousel.metrics import Metrics
from carousel.turns import (
    Ended,
    Event,
    FinishReason,
    Generate,
    Generated,
    Goal,
    Predict,
    Predicted,
    Sampling,
    Score,
    Scored,
    Snapshot,
    Turn,
)

GREEDY = Sampling(seed=0, temperature=0)


@contextlib.asynccontextmanager
async def started(
    model: ToyModel, clock: Callable[[], float] = time.perf_counter, **bounds: Any
) -> AsyncIterator[Engine]:
    engine = Engine(model, 0, make_bounds(**bounds), Metrics(CollectorRegistry()), clock=clock)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def finish(engine: Engine, turn: Turn) -> tuple[list[Event], Ended]:
    events: list[Event] = []
    async with contextlib.aclosing(engine.follow(turn)) as batches:
        async for batch, _ in batches:
            events.extend(batch)
    assert isinstance(events[-1], Ended)
    return events[:-1], events[-1]


def tokens_of(events: list[Event]) -> list[int]:
    return [event.id for event in events if isinstance(event, Generated)]


async def test_greedy_generation_equals_the_oracle() -> None:
    """A greedy turn gives the oracle's tokens and leaves the oracle's state."""
    model = ToyModel()
    async with started(model) as engine:
        events, ended = await finish(engine, Turn(engine.start_snapshot, (3, 1, 4), Generate(GREEDY, 20)))
        oracle = SlowOracle(model)
        tokens, snapshot = oracle.greedy(oracle.start(), (3, 1, 4), 20)
        assert tokens_of(events) == tokens
        assert same_snapshot(ended.snapshot, snapshot)
        assert ended.reason is FinishReason.LENGTH


@pytest.mark.parametrize("max_chunk_tokens", [1, 3, 64])
@pytest.mark.parametrize("max_lanes", [1, 2, 7])
async def test_nobody_notices_the_company(max_lanes: int, max_chunk_tokens: int) -> None:
    """40 mixed turns at once give bit for bit what each gives alone, in few lanes or many, in chunks or whole."""
    dice = random.Random(7)
    model = ToyModel()
    oracle = SlowOracle(model)
    start = oracle.start()
    turns = []
    for number in range(40):
        ids = tuple(dice.randrange(16) for _ in range(dice.randrange(12)))
        sampled = Generate(Sampling(seed=number, top_p=0.9), 9)
        goal = dice.choice(list[Goal]((Generate(GREEDY, 9), sampled, Predict(3), Score())))
        turns.append(Turn(start, ids, goal))
    async with started(model, max_lanes=max_lanes, max_chunk_tokens=max_chunk_tokens) as engine:
        together = await asyncio.gather(*(finish(engine, turn) for turn in turns))
    async with started(ToyModel(), max_lanes=1, max_chunk_tokens=64) as engine:
        for turn, (events, ended) in zip(turns, together, strict=True):
            alone_events, alone_ended = await finish(engine, turn)
            assert same_snapshot(ended.snapshot, alone_ended.snapshot)
            assert _flat(events) == _flat(alone_events)


def _flat(events: list[Event]) -> list[object]:
    """Flattens Score events: their cuts may differ, their contents may not."""
    scored = [event for event in events if isinstance(event, Scored)]
    rest: list[object] = [event for event in events if not isinstance(event, Scored)]
    return [*rest, [x for e in scored for x in zip(e.ids, e.log_probabilities, e.ranks, strict=True)]]


async def test_scores_are_the_log_probabilities_of_the_fed_tokens() -> None:
    """Every fed token is rated by what stood before it, the first one by the session's last hidden vector."""
    model = ToyModel()
    oracle = SlowOracle(model)
    ids = (5, 9, 2, 2, 11)
    async with started(model, max_chunk_tokens=2) as engine:
        events, _ = await finish(engine, Turn(engine.start_snapshot, ids, Score()))
    expected, snapshot = [], oracle.start()
    for token in ids:
        expected.append(sampler.log_probabilities(oracle.logits(snapshot))[token])
        snapshot = oracle.feed(snapshot, [token])
    found = [value for event in events if isinstance(event, Scored) for value in event.log_probabilities]
    np.testing.assert_allclose(found, expected, atol=1e-5)


async def test_predict_without_input_asks_again() -> None:
    """An empty Predict answers from the stored hidden vector and moves nothing."""
    async with started(ToyModel()) as engine:
        first, ended = await finish(engine, Turn(engine.start_snapshot, (4, 4), Predict(5)))
        again, ended_again = await finish(engine, Turn(ended.snapshot, (), Predict(5)))
    assert isinstance(first[0], Predicted)
    assert first == again
    assert same_snapshot(ended.snapshot, ended_again.snapshot)


async def test_stop_id_ends_a_generation_and_is_consumed() -> None:
    """The turn ends after the stop token, which counts into the position."""
    model = ToyModel()
    oracle = SlowOracle(model)
    tokens, _ = oracle.greedy(oracle.start(), (1,), 12)
    stop = tokens[4]
    expected = tokens[: tokens.index(stop) + 1]
    async with started(model) as engine:
        goal = Generate(GREEDY, 12, stop_ids=frozenset({stop}))
        events, ended = await finish(engine, Turn(engine.start_snapshot, (1,), goal))
    assert tokens_of(events) == expected
    assert ended.reason is FinishReason.STOP_ID
    assert ended.snapshot.position == 1 + len(expected)


async def test_a_turn_without_tokens_to_generate_only_feeds() -> None:
    """max_tokens 0 consumes the input and ends."""
    model = ToyModel()
    oracle = SlowOracle(model)
    async with started(model) as engine:
        events, ended = await finish(engine, Turn(engine.start_snapshot, (1, 2, 3), Generate(GREEDY, 0)))
    assert events == []
    assert same_snapshot(ended.snapshot, oracle.feed(oracle.start(), (1, 2, 3)))


async def test_a_row_that_is_not_a_number_fails_alone() -> None:
    """A NaN in one lane is that turn's ModelFailed; its batch mates get their oracle's answer."""
    model = ToyModel()
    model.poison_id = 13
    oracle = SlowOracle(ToyModel())
    async with started(model, max_lanes=8) as engine:
        good = [Turn(engine.start_snapshot, (n, n), Generate(GREEDY, 2)) for n in range(4)]
        bad = Turn(engine.start_snapshot, (1, 13, 1), Predict(1))
        results = await asyncio.gather(*(finish(engine, turn) for turn in [*good, bad]), return_exceptions=True)
    assert isinstance(results[-1], ModelFailed)
    for turn, result in zip(good, results, strict=False):
        assert not isinstance(result, BaseException)
        assert tokens_of(result[0]) == oracle.greedy(oracle.start(), turn.ids, 2)[0]


class _BrokenModel(ToyModel):
    """Raises on the token 15."""

    def core(self, ids_BT, lengths_B, state):  # type: ignore[no-untyped-def]
        if (ids_BT == 15).any():
            raise RuntimeError("out of memory")
        return super().core(ids_BT, lengths_B, state)


async def test_a_step_that_raises_ends_its_turns_and_the_engine_lives_on() -> None:
    """Every turn of a batch that raised gets ModelFailed, and the next turn runs."""
    async with started(_BrokenModel()) as engine:
        with pytest.raises(ModelFailed):
            await finish(engine, Turn(engine.start_snapshot, (15,), Predict(1)))
        events, _ = await finish(engine, Turn(engine.start_snapshot, (1,), Predict(1)))
    assert isinstance(events[0], Predicted)


async def test_the_queue_is_bounded() -> None:
    """Beyond max_queued_turns a turn is refused with a retry hint; the accepted ones finish."""
    model = GatedModel()
    async with started(model, max_lanes=1, max_queued_turns=2) as engine:
        turn = Turn(engine.start_snapshot, (1,), Generate(GREEDY, 5))
        model.close()
        tickets = [engine.submit(turn)]
        await model.until_held()  # the lane is then busy, and the next ones stay in the queue
        tickets += [engine.submit(turn), engine.submit(turn)]
        with pytest.raises(Overloaded) as refused:
            engine.submit(turn)
        assert refused.value.retry_seconds > 0
        model.gate.set()
        for ticket in tickets:
            await _until_the_end(ticket)


async def test_drain_lets_turns_finish_and_refuses_new_ones() -> None:
    """After drain starts, accepted turns end normally and new ones get ShuttingDown."""
    async with started(ToyModel()) as engine:
        ticket = engine.submit(Turn(engine.start_snapshot, (1,), Generate(GREEDY, 30)))
        draining = asyncio.create_task(engine.drain(30))
        events: list[Event] = []
        while not events or not isinstance(events[-1], Ended):
            events.extend(await ticket.next_events())
        await draining
        assert len(tokens_of(events)) == 30
        with pytest.raises(ShuttingDown):
            engine.submit(Turn(engine.start_snapshot, (1,), Predict(1)))


async def test_drain_past_its_deadline_ends_what_runs() -> None:
    """A turn that is not done by the deadline ends with ShuttingDown."""
    async with started(ToyModel()) as engine:
        ticket = engine.submit(Turn(engine.start_snapshot, (1,), Generate(GREEDY, 10_000_000)))
        await ticket.next_events()
        await engine.drain(0.0)
        with pytest.raises(ShuttingDown):
            await _until_the_end(ticket)


async def _until_the_end(ticket: Ticket) -> None:
    while not isinstance((await ticket.next_events())[-1], Ended):
        pass


async def test_snapshots_that_were_handed_out_never_change() -> None:
    """Running on from a snapshot leaves the snapshot's own arrays as they were."""
    async with started(ToyModel(), max_lanes=1) as engine:
        _, ended = await finish(engine, Turn(engine.start_snapshot, (1, 2), Predict(1)))
        kept: Snapshot = ended.snapshot
        before = [array.tobytes() for array in (*kept.state, kept.hidden_H)]
        await finish(engine, Turn(kept, (3, 4), Generate(GREEDY, 8)))
        assert [array.tobytes() for array in (*kept.state, kept.hidden_H)] == before


async def test_the_engine_waits_for_a_busy_event_loop() -> None:
    """However short the steps and long the event loop is busy, only a few steps run that it has not seen."""

    class CountedModel(ToyModel):
        has_run_away = threading.Event()

        def core(self, ids_BT: Array, lengths_B: Array, state: StateBatch) -> tuple[Array, StateBatch]:
            if len(self.steps) > 100:
                self.has_run_away.set()
            return super().core(ids_BT, lengths_B, state)

    model = CountedModel()
    async with started(model) as engine:
        ticket = engine.submit(Turn(engine.start_snapshot, (1,), Generate(GREEDY, 1000)))
        await ticket.next_events()
        assert not model.has_run_away.wait(0.5)  # nothing else runs in the event loop meanwhile
        while not isinstance((await ticket.next_events())[-1], Ended):
            pass
        assert model.has_run_away.is_set()


class TimedModel(ToyModel):
    """Its clock goes on by what a step would take: a second for single tokens, 90 ms for each token of a chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def core(self, ids_BT: Array, lengths_B: Array, state: StateBatch) -> tuple[Array, StateBatch]:
        self.now += 0.09 * ids_BT.size if ids_BT.shape[1] > 1 else 1.0
        return super().core(ids_BT, lengths_B, state)


async def test_prompts_beside_a_stream_are_fed_as_fast_as_the_bound_lets_them() -> None:
    """Eleven tokens of prompts cost as much as the stream's own step: two prompts of 100 take chunks of 7, and a step
    takes 2.3 times the stream's. 16 tokens at once, right for other models, were too many."""
    model = TimedModel()
    async with started(model, model.clock, max_lanes=3) as engine:
        stream = engine.submit(Turn(engine.start_snapshot, (1,), Generate(GREEDY, 300)))
        while len(model.steps) < 12:  # its own step is then known
            await stream.next_events()
        model.steps.clear()
        turn = Turn(engine.start_snapshot, (2,) * 100, Generate(GREEDY, 0))
        ends = await asyncio.gather(*(finish(engine, turn) for _ in range(2)))
        assert [ended.snapshot.position for _, ended in ends] == [100, 100]
        stream.cancel()
    chunks = [columns for rows, columns in model.steps if columns > 1 and rows == 2]
    assert chunks[:3] == [8, 8, 8]  # nothing is known of prompts yet
    assert set(chunks[3:-1]) == {7}


async def test_a_turn_that_is_pushed_out_is_told_so() -> None:
    """One owner fills the queue; another's turn takes the place of his newest, whose caller gets Overloaded."""
    model = GatedModel()
    async with started(model, max_lanes=1, max_queued_turns=2) as engine:
        turns = {owner: Turn(engine.start_snapshot, (1,), Generate(GREEDY, 5), owner=owner) for owner in ("ann", "bob")}
        model.close()
        tickets = [engine.submit(turns["ann"])]
        await model.until_held()
        tickets += [engine.submit(turns["ann"]) for _ in range(2)]
        with pytest.raises(Overloaded):
            engine.check_open("ann")
        engine.check_open("bob")
        tickets.append(engine.submit(turns["bob"]))
        model.gate.set()
        with pytest.raises(Overloaded) as refused:
            await _until_the_end(tickets[2])
        assert refused.value.limit == "max_queued_turns"
        for ticket in (tickets[0], tickets[1], tickets[3]):
            await _until_the_end(ticket)


async def test_drain_lets_an_accepted_request_submit_its_later_turns() -> None:
    """A request that began before the drain may go on until it is done, and is waited for; new ones are refused."""
    async with started(ToyModel()) as engine:
        turn = Turn(engine.start_snapshot, (1,), Predict(1))
        with engine.accepted("ann"):
            await finish(engine, turn)
            draining = asyncio.create_task(engine.drain(30))
            await asyncio.sleep(0)
            assert not draining.done()
            with pytest.raises(ShuttingDown), engine.accepted("bob"):
                pass
            with pytest.raises(ShuttingDown):
                engine.check_open("ann")
            events = await asyncio.gather(*(finish(engine, turn) for _ in range(3)))
            assert all(isinstance(found[0], Predicted) for found, _ in events)
            assert not draining.done()
        await asyncio.wait_for(draining, 20)
        with pytest.raises(ShuttingDown):
            engine.submit(turn)


async def test_an_accepted_request_is_over_at_the_deadline() -> None:
    """Then its turns end, and it may begin no more; leaving changes nothing."""
    async with started(ToyModel()) as engine:
        with engine.accepted():
            ticket = engine.submit(Turn(engine.start_snapshot, (1,), Generate(GREEDY, 10_000_000)))
            await engine.drain(0.0)
            with pytest.raises(ShuttingDown):
                await _until_the_end(ticket)
            with pytest.raises(ShuttingDown):
                engine.submit(Turn(engine.start_snapshot, (1,), Predict(1)))


async def test_a_request_that_fails_is_no_longer_waited_for() -> None:
    """Whatever ends it, a drain does not wait for it."""
    async with started(ToyModel()) as engine:
        with contextlib.suppress(RuntimeError), engine.accepted():
            raise RuntimeError("oops")
        await asyncio.wait_for(engine.drain(1000), 1)


async def test_ending_many_turns_does_not_hold_the_event_loop() -> None:
    """A drain's deadline ends 1,024 queued turns in less than 10 ms of the event loop at once."""
    model = GatedModel()
    async with started(model, max_lanes=1, max_queued_turns=1024) as engine:
        turn = Turn(engine.start_snapshot, (1,), Generate(GREEDY, 5))
        model.close()
        tickets = [engine.submit(turn)]
        await model.until_held()
        tickets += [engine.submit(turn) for _ in range(1024)]
        started_at = time.thread_time()  # processor time, which a busy machine does not lengthen
        engine._end_all(ShuttingDown("the test is over"))
        seconds = time.thread_time() - started_at
        model.gate.set()
        for ticket in tickets:
            with pytest.raises(ShuttingDown):
                await ticket.next_events()
    assert seconds < 0.01
