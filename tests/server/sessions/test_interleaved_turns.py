"""Turns of many sessions that interleave give each session what it would get alone."""

import asyncio
import contextlib
import random

from tests.bounds import make_bounds
from tests.fakes import SlowOracle, ToyModel, same_snapshot
from tests.server.sessions.service_turns import GREEDY, generate, score, settle
from tests.worlds import Plan, World, running_world

from carousel.engine import sampler
from carousel.sessions.requests import Caller, GenerationRequest, PredictionRequest, ScoringRequest
from carousel.turns import Sampling, SamplingOptions, Snapshot


async def test_a_thousand_interleaved_turns_on_fifty_sessions() -> None:
    """Predict, Score, greedy and seeded Generate on 50 sessions, some given up, always give the oracle's answer."""
    dice = random.Random(11)
    plan = Plan(bounds=make_bounds(max_lanes=16, max_queued_turns=100, max_chunk_tokens=4), max_turns_per_session=50)
    async with running_world(plan) as world:
        oracle = SlowOracle(ToyModel())
        names = [f"s{number}" for number in range(50)]
        for name in names:
            await world.open(name)
        expected = {name: oracle.start() for name in names}

        async def talk(name: str, num_turns: int) -> None:
            for _ in range(num_turns):
                expected[name] = await _random_turn(world, oracle, dice, Caller("ann", name), expected[name])
                for _ in range(dice.randrange(3)):
                    await asyncio.sleep(0)

        await asyncio.gather(*(talk(name, 20) for name in names))
        for name in names:
            assert same_snapshot(await world.snapshot(name), expected[name])
        await settle(world)


async def _random_turn(
    world: World, oracle: SlowOracle, dice: random.Random, caller: Caller, past: Snapshot
) -> Snapshot:
    """Does one turn, checks its answer, and returns where the session must stand after it."""
    ids = tuple(dice.randrange(16) for _ in range(dice.randrange(9)))
    match dice.choice(["predict", "score", "greedy", "seeded", "given up"]):
        case "predict":
            prediction = await world.sessions.predict(caller, PredictionRequest(ids, num_candidates=3))
            after = oracle.feed(past, ids)
            best = sampler.rank_candidates(oracle.logits(after), 3)
            assert [one.id for one in prediction.candidates] == [one.id for one in best]
            return after
        case "score":
            rated, _ = await score(world, caller, ScoringRequest(ids))
            assert [token.id for token in rated] == list(ids)
            return oracle.feed(past, ids)
        case "greedy":
            tokens, _, _ = await generate(world, caller, GenerationRequest(ids, GREEDY, 6))
            expected, after = oracle.greedy(past, ids, 6)
            assert tokens == expected
            return after
        case "seeded":
            options = SamplingOptions(seed=dice.randrange(2**64), top_p=0.8, repetition_penalty=1.3)
            tokens, _, _ = await generate(world, caller, GenerationRequest(ids, options, 6))
            assert options.seed is not None
            sampling = Sampling(seed=options.seed, top_p=0.8, repetition_penalty=1.3)
            after = oracle.feed(past, ids)
            for token in tokens:
                assert token == sampler.choose(oracle.logits(after), sampling, after.recent_ids, after.position)
                after = oracle.feed(after, (token,))
            return after
        case _:
            pieces = world.sessions.generate(caller, GenerationRequest(ids, GREEDY, 1000))
            async with contextlib.aclosing(pieces):
                piece = await anext(pieces)
            return past if piece.end is None else oracle.greedy(past, ids, 1000)[1]  # on a slow machine the whole turn
