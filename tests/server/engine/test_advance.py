"""Held sequences advance beside turns, in the event loop or in the thread, with the same results; each token is
answered once, whatever fails, drains or stops, and nobody's thousand keep another's one waiting."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.bounds import make_bounds
from tests.fakes import GatedModel, SlowOracle, ToyModel

from carousel.bundle.layout import Array, StateBatch
from carousel.engine.engine import Engine
from carousel.errors import ModelFailed, ShuttingDown
from carousel.metrics import Metrics
from carousel.turns import Generate, Predict, Sampling, Turn

RING = 4
GREEDY = Sampling(seed=0, temperature=0)


@contextlib.asynccontextmanager
async def started(model: ToyModel, *, in_loop: bool = False, **bounds: Any) -> AsyncIterator[Engine]:
    held = {"max_held_bytes": 2**20, "ring_size": RING}
    engine = Engine(model, 0, make_bounds(**(held | bounds)), Metrics(CollectorRegistry()))
    await engine.start()
    engine._place.max_rows = 2**10 if in_loop else 0
    try:
        yield engine
    finally:
        await engine.stop()


class Held:
    """A sequence in the columns, told one token after the other."""

    def __init__(self, engine: Engine, owner: str = "ann") -> None:
        row = engine.columns.allocate_slot()
        assert row is not None
        self._engine = engine
        self._owner = owner
        self._first_row = row
        self._place = 0
        engine.columns.load(row, engine.start_snapshot)

    def feed(self, token_id: int, num_candidates: int = 3) -> "asyncio.Future[Any]":
        """To be awaited before the next one."""
        waiter = asyncio.get_running_loop().create_future()
        row = self._first_row + self._place % RING
        self._place += 1
        next_row = self._first_row + self._place % RING
        self._engine.advance(self._owner, row, next_row, token_id, num_candidates, waiter)
        return waiter


async def run(engine: Engine, num_sequences: int, num_tokens: int) -> list[list[Any]]:
    """Each sequence's answers, those of one round at once."""
    sequences = [Held(engine) for _ in range(num_sequences)]
    answers: list[list[Any]] = [[] for _ in sequences]
    for token in range(num_tokens):
        waiters = [one.feed((token + number) % 16) for number, one in enumerate(sequences)]
        for found, waiter in zip(answers, waiters, strict=True):
            found.append(await waiter)
    return answers


async def test_a_step_in_the_event_loop_is_one_in_the_thread() -> None:
    """Bit for bit, and as the oracle has it, over more tokens than the ring has rows."""
    found = []
    for in_loop in (False, True):
        async with started(ToyModel(), in_loop=in_loop, max_lanes=5) as engine:
            found.append(await run(engine, 7, 9))
    assert found[0] == found[1]
    oracle = SlowOracle(ToyModel())
    for number, answers in enumerate(found[0]):
        sequence = oracle.start()
        for token, (ids, _, is_finite) in enumerate(answers):
            sequence = oracle.feed(sequence, [(token + number) % 16])
            logits_V = oracle.logits(sequence)
            assert ids == sorted(range(16), key=lambda index: -logits_V[index])[:3]
            assert is_finite


@pytest.mark.parametrize("in_loop", [False, True])
async def test_turns_and_held_sequences_share_steps(in_loop: bool) -> None:
    """Neither's results depend on the other's being there."""
    turn = Turn(SlowOracle(ToyModel()).start(), (1, 2, 3), Generate(GREEDY, 30))
    async with started(ToyModel(), in_loop=in_loop) as engine:
        alone = await engine.finish(turn), await run(engine, 5, 12)
    async with started(ToyModel(), in_loop=in_loop) as engine:
        generating = [asyncio.create_task(engine.finish(turn)) for _ in range(3)]
        together = await run(engine, 5, 12)
        assert together == alone[1]
        for task in generating:
            events, _ = await task
            assert events == alone[0][0]


class Noting(ToyModel):
    """Notes in which of its steps token 15 was fed."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[int] = []

    def core(self, ids_BT: Array, lengths_B: Array, state: StateBatch) -> tuple[Array, StateBatch]:
        if 15 in ids_BT:
            self.noted.append(len(self.steps))
        return super().core(ids_BT, lengths_B, state)


@pytest.mark.parametrize("in_loop", [False, True])
async def test_one_among_a_thousand_is_in_the_next_step(in_loop: bool) -> None:
    """The others' owner asks again as soon as he is answered; counted in steps, not in time."""
    model = Noting()
    async with started(model, in_loop=in_loop, max_lanes=64) as engine:
        stopped = False

        async def keep_asking() -> int:
            sequence, count = Held(engine, "ann"), 0
            while not stopped:
                await sequence.feed(1)
                count += 1
            return count

        greedy = [asyncio.create_task(keep_asking()) for _ in range(1000)]
        await asyncio.sleep(0)
        modest, steps = Held(engine, "bob"), []
        for _ in range(20):
            before = len(model.steps)
            await modest.feed(15)
            steps.append(model.noted[-1] - before)
        stopped = True
        counts = await asyncio.gather(*greedy)
        assert max(steps) <= (
            2 if in_loop else 8
        )  # one that runs, one that is planned; the thread does not wait for us
        assert max(counts) - min(counts) <= 1  # and each of the thousand has its turn


class Failing(ToyModel):
    is_failing = False

    def core(self, ids_BT: Array, lengths_B: Array, state: StateBatch) -> tuple[Array, StateBatch]:
        if self.is_failing:
            raise RuntimeError("no")
        return super().core(ids_BT, lengths_B, state)


@pytest.mark.parametrize("in_loop", [False, True])
async def test_a_step_that_raises_fails_its_rows_and_the_engine_lives_on(in_loop: bool) -> None:
    model = Failing()
    async with started(model, in_loop=in_loop) as engine:
        model.is_failing = True
        waiters = [Held(engine).feed(1) for _ in range(3)]
        for waiter in waiters:
            with pytest.raises(ModelFailed):
                await waiter
        model.is_failing = False
        assert (await Held(engine).feed(1))[2]
        assert not engine._num_advancing


@pytest.mark.parametrize("in_loop", [False, True])
@pytest.mark.filterwarnings("ignore")
async def test_a_defect_of_the_engine_ends_all_who_wait(in_loop: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in the step too, wherever it runs; whoever watches the engine is told."""
    async with started(ToyModel(), in_loop=in_loop, max_lanes=2) as engine:

        def commit(*_: object) -> None:
            raise RuntimeError("a defect")

        monkeypatch.setattr(engine._scheduler, "commit", commit)
        waiters = [Held(engine).feed(1) for _ in range(5)]
        async with asyncio.timeout(5):
            for waiter in waiters:
                with pytest.raises(ModelFailed):
                    await waiter
            with pytest.raises(RuntimeError, match="a defect"):
                await engine.until_broken()
            await engine.drain(1)


class Bad:
    """A waiter with a defect."""

    def done(self) -> bool:
        return False

    def set_result(self, found: object, /) -> None:
        raise RuntimeError("a defect")

    def set_exception(self, error: Exception, /) -> None:
        raise RuntimeError("a defect")


@pytest.mark.parametrize("in_loop", [False, True])
async def test_a_waiter_with_a_defect_costs_no_other_its_answer(in_loop: bool) -> None:
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with started(ToyModel(), in_loop=in_loop) as engine:
        first, second = Held(engine), Held(engine)
        before = first.feed(1)
        row = engine.columns.allocate_slot()
        assert row is not None
        engine.advance("ann", row, row + 1, 1, 1, Bad())
        after = second.feed(1)
        async with asyncio.timeout(5):
            await asyncio.gather(before, after)
        assert not engine._num_advancing
    assert [str(context["exception"]) for context in told] == ["a defect"]


@pytest.mark.parametrize("in_loop", [False, True])
async def test_drain_waits_for_tokens_that_are_fed(in_loop: bool) -> None:
    async with started(ToyModel(), in_loop=in_loop, max_lanes=1) as engine:
        waiters = [Held(engine).feed(1) for _ in range(5)]
        await engine.drain(5)
        assert all(waiter.done() and waiter.result()[2] for waiter in waiters)
        assert not engine.is_open


async def test_drain_past_its_deadline_ends_what_waits() -> None:
    """The step that runs is answered when it has run."""
    model = GatedModel()
    async with started(model, max_lanes=1) as engine:
        model.close()
        first = Held(engine).feed(1)
        await model.until_held()
        second = Held(engine).feed(1)
        await engine.drain(0.01)
        with pytest.raises(ShuttingDown):
            await second
        model.gate.set()
        assert (await first)[2]


async def test_stop_answers_whoever_waits() -> None:
    model = GatedModel()
    async with started(model, max_lanes=1) as engine:
        model.close()
        waiters = [Held(engine).feed(1) for _ in range(4)]
        await model.until_held()
        stopping = asyncio.create_task(engine.stop())
        await asyncio.sleep(0)
        model.gate.set()
        await stopping
        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(*waiters, return_exceptions=True)
        assert not isinstance(outcomes[0], BaseException)
        assert outcomes[0][2]
        assert all(isinstance(one, ShuttingDown) for one in outcomes[1:])


async def test_who_no_longer_waits_is_not_told() -> None:
    """The others of the step are."""
    model = GatedModel()
    async with started(model) as engine:
        model.close()
        first, second = Held(engine).feed(1), Held(engine).feed(1)
        await model.until_held()
        first.cancel()
        model.gate.set()
        assert (await second)[2]


async def test_turns_take_the_place_of_steps_in_the_event_loop() -> None:
    """While anything generates, steps run in the thread; then they come back, and nothing stands still between."""
    async with started(ToyModel(), in_loop=True) as engine:
        sequence = Held(engine)
        turn = Turn(engine.start_snapshot, (1,), Generate(GREEDY, 40))
        async with asyncio.timeout(10):
            for _ in range(5):
                generating = asyncio.create_task(engine.finish(turn))
                while not generating.done():
                    await sequence.feed(1)
                await generating
                await engine.finish(Turn(engine.start_snapshot, (1, 2), Predict(1)))
                for _ in range(3):
                    await sequence.feed(2)


async def test_a_step_in_the_event_loop_is_not_answered_before_one_of_the_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when steps begin to run in the loop while it has not received what the thread ran."""
    model, answered, slow_to_plan = GatedModel(), list[str](), threading.Event()
    async with started(model) as engine:
        next_step = engine._next_step

        def plan_late() -> Any:
            assert slow_to_plan.wait(20)
            return next_step()

        def note(name: str, _: object) -> None:
            answered.append(name)

        model.close()
        waiters = {"first": Held(engine).feed(1)}
        await model.until_held()
        monkeypatch.setattr(engine, "_next_step", plan_late)
        engine._place.max_rows = 2**10
        waiters["second"] = Held(engine).feed(2)
        for name, waiter in waiters.items():
            waiter.add_done_callback(partial(note, name))
        model.gate.set()
        while not engine._num_steps_ahead:
            time.sleep(1e-4)  # the loop stands still, and cannot receive the step
        asyncio.get_running_loop().call_later(0.01, slow_to_plan.set)
        await asyncio.gather(*waiters.values())
        assert answered == ["first", "second"]
