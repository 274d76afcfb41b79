"""Turns on sessions: what several requests give is what one gives, and what fails leaves no trace."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest
from tests.bounds import make_bounds, make_limits
from tests.fakes import GatedModel, SlowOracle, ToyModel, byte_tokenizer, same_snapshot
from tests.worlds import Plan, World, running_world

from carousel.bundle.layout import Array, StateBatch
from carousel.engine import sampler
from carousel.errors import (
    AnswerGone,
    InvalidRequest,
    ModelFailed,
    ModelNotFound,
    Overloaded,
    SessionDeleted,
    SessionExpired,
    ShuttingDown,
)
from carousel.sessions.checks import Limits
from carousel.sessions.encoding import Encoder
from carousel.sessions.requests import (
    Caller,
    GenerationEnd,
    GenerationPiece,
    GenerationRequest,
    PredictionRequest,
    ScoredToken,
    ScoreTotals,
    ScoringRequest,
)
from carousel.turns import FinishReason, Predict, Sampling, SamplingOptions, Snapshot, Turn

GREEDY = SamplingOptions(temperature=0, seed=0)
ANN = Caller("ann", "s")


async def generate(world: World, caller: Caller, request: GenerationRequest) -> tuple[list[int], str, GenerationEnd]:
    pieces: list[GenerationPiece] = [piece async for piece in world.sessions.generate(caller, request)]
    assert [piece.end is None for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    end = pieces[-1].end
    assert end is not None
    return [token.id for piece in pieces for token in piece.tokens], "".join(piece.text for piece in pieces), end


async def score(world: World, caller: Caller, request: ScoringRequest) -> tuple[list[ScoredToken], ScoreTotals]:
    pieces = [piece async for piece in world.sessions.score(caller, request)]
    totals = pieces[-1].totals
    assert totals is not None
    assert all(piece.totals is None for piece in pieces[:-1])
    return [token for piece in pieces for token in piece.tokens], totals


async def test_several_requests_equal_one() -> None:
    """The same tokens in one request or in many end in the same state, bit for bit, and the same text follows."""
    ids = (1, 5, 2, 9, 14, 3, 3, 8)
    async with running_world() as world:
        for session_id, cuts in (("whole", ()), ("parts", (1, 2, 5)), ("single", tuple(range(1, 8)))):
            await world.open(session_id)
            for start, stop in zip((0, *cuts), (*cuts, len(ids)), strict=True):
                caller = Caller("ann", session_id)
                await world.sessions.predict(caller, PredictionRequest(ids[start:stop]))
        results = []
        snapshots = []
        for session_id in ("whole", "parts", "single"):
            request = GenerationRequest((), SamplingOptions(seed=3), max_tokens=20)
            tokens, text, end = await generate(world, Caller("ann", session_id), request)
            results.append((tokens, text, end.standing.position))
            snapshots.append(await world.snapshot(session_id))
        fresh = GenerationRequest(ids, SamplingOptions(seed=3), 20)
        tokens, text, end = await generate(world, Caller("ann"), fresh)
        results.append((tokens, text, end.standing.position))
    assert results[0] == results[1] == results[2] == results[3]
    assert same_snapshot(snapshots[0], snapshots[1])
    assert same_snapshot(snapshots[0], snapshots[2])


async def test_generation_reports_how_it_ended() -> None:
    """Reason, position and counts of the last piece fit the session."""
    async with running_world() as world:
        await world.open()
        for round_number in range(3):
            _, _, end = await generate(world, ANN, GenerationRequest("ab", GREEDY, 5))
            assert (end.reason, end.num_input_tokens, end.num_generated_tokens) == (FinishReason.LENGTH, 2, 5)
            assert end.standing.position == 7 * (round_number + 1) == (await world.operations.get("ann", "s")).position


async def test_a_random_seed_is_reported_and_repeats_the_generation() -> None:
    """Without a seed one is made; given back, it gives the same tokens."""
    async with running_world() as world:
        tokens, text, end = await generate(world, Caller("ann"), GenerationRequest("a", max_tokens=30))
        other, _, other_end = await generate(world, Caller("ann"), GenerationRequest("a", max_tokens=30))
        assert (other, other_end.seed) != (tokens, end.seed)
        again = await generate(
            world, Caller("ann"), GenerationRequest("a", SamplingOptions(seed=end.seed), max_tokens=30)
        )
        assert again == (tokens, text, end)


async def test_a_stop_string_ends_the_text_and_the_session_has_consumed_it() -> None:
    """The text ends before the stop; all tokens, the stop's too, are part of the session."""
    async with running_world() as world:
        tokens, text, _ = await generate(world, Caller("ann"), GenerationRequest("a", GREEDY, 12))
        stop = text[4:7]
        cut = text.index(stop)
        await world.open()
        some, shown, end = await generate(world, ANN, GenerationRequest("a", GREEDY, 12, stop=("nothing", stop)))
        assert (shown, end.reason, end.stop) == (text[:cut], FinishReason.STOP, stop)
        assert some == tokens[: cut + len(stop)]
        oracle = world.oracle
        expected = oracle.feed(oracle.start(), (1, *some))
        assert same_snapshot(await world.snapshot(), expected)


async def test_a_stop_id_leaves_its_text_out() -> None:
    """The stop token is consumed and reported, its text is not shown."""
    async with running_world() as world:
        tokens, text, _ = await generate(world, Caller("ann"), GenerationRequest("a", GREEDY, 12))
        stop_at = next(n for n in range(3, 12) if tokens.index(tokens[n]) == n) if len(set(tokens)) > 3 else 0
        request = GenerationRequest("a", GREEDY, 12, stop_ids=(tokens[stop_at],))
        some, shown, end = await generate(world, Caller("ann"), request)
        stop_at = tokens.index(tokens[stop_at])
        assert (some, shown, end.reason) == (tokens[: stop_at + 1], text[:stop_at], FinishReason.STOP_ID)


async def test_a_character_cut_by_the_end_of_a_turn_is_completed_by_the_next() -> None:
    """The texts of a session's turns, joined, are the text of its bytes."""
    async with running_world(Plan(model=ToyModel(256), tokenizer=byte_tokenizer())) as world:
        await world.open()
        for byte in "a日"[:2].encode()[:-1]:
            await world.sessions.predict(ANN, PredictionRequest((byte,)))
        forced = SamplingOptions(temperature=0, logit_bias=(("日".encode()[2], 100.0),))
        _, text, _ = await generate(world, ANN, GenerationRequest((), forced, 1))
        assert text == "日"


async def test_scores_add_up() -> None:
    """Totals are the sums of the tokens' ratings, which are the oracle's; texts joined are the input."""
    text = "abcabcnm"
    async with running_world(Plan(bounds=make_bounds(max_chunk_tokens=3))) as world:
        tokens, totals = await score(world, Caller("ann"), ScoringRequest(text, num_top=4))
        oracle, snapshot = world.oracle, world.oracle.start()
        for token in tokens:
            logits_V = oracle.logits(snapshot)
            assert token.log_probability == pytest.approx(sampler.log_probabilities(logits_V)[token.id], abs=1e-5)
            assert token.rank == int((logits_V > logits_V[token.id]).sum()) + 1
            assert token.is_hit == (token.rank <= 4)
            snapshot = oracle.feed(snapshot, (token.id,))
    assert "".join(token.text for token in tokens) == text
    assert totals.num_tokens == totals.standing.position == len(text)
    assert totals.num_hits == sum(token.is_hit for token in tokens)
    assert totals.log_probability == pytest.approx(sum(token.log_probability for token in tokens))
    assert totals.perplexity == pytest.approx(np.exp(-totals.log_probability / len(text)))


async def test_predictions_name_the_likeliest_and_move_the_session() -> None:
    """Candidates are the oracle's; the position counts what was fed; an empty request asks again."""
    async with running_world() as world:
        await world.open()
        first = await world.sessions.predict(ANN, PredictionRequest("abc", num_candidates=4))
        again = await world.sessions.predict(ANN, PredictionRequest((), num_candidates=4))
        logits_V = world.oracle.logits(world.oracle.feed(world.oracle.start(), (1, 2, 3)))
        assert [one.id for one in first.candidates] == [one.id for one in sampler.rank_candidates(logits_V, 4)]
        assert (first.standing.position, again) == (3, first)


async def test_asking_for_words_does_not_move_the_session() -> None:
    """The search runs on copies: the session stands after its input, wherever the search went."""
    async with running_world() as world:
        await world.open()
        with_words = await world.sessions.predict(ANN, PredictionRequest("abc", word_prefix="d"))
        assert with_words.words
        assert same_snapshot(await world.snapshot(), world.oracle.feed(world.oracle.start(), (1, 2, 3)))


async def test_a_stream_without_a_session_carries_its_own_state() -> None:
    """predict_unkept goes on from the snapshot it gave, and no session is made."""
    async with running_world() as world:
        _, snapshot = await world.sessions.predict_unkept(None, PredictionRequest("ab"), Caller("ann"))
        prediction, snapshot = await world.sessions.predict_unkept(snapshot, PredictionRequest("c"), Caller("ann"))
        assert prediction.standing.position == 3
        assert same_snapshot(snapshot, world.oracle.feed(world.oracle.start(), (1, 2, 3)))
        assert await world.store.num_live() == 0


async def settle(world: World) -> None:
    """Until every lane is free; one that was given up is freed at the next step."""
    async with asyncio.timeout(10):
        while not world.is_idle:
            await asyncio.sleep(0)


@pytest.mark.parametrize("num_pieces", [1, 5])
async def test_a_generation_that_is_given_up_leaves_the_session(num_pieces: int) -> None:
    """Closing the stream after some pieces frees the lane and leaves the session where it was, ready for a turn."""
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
    """After some tokens were handed out the stream ends with ModelFailed and the session has not moved."""
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
    """A generation on a session that was deleted cannot be saved and says so."""
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
    """With a full queue or a closed engine even an unknown session gets that answer, and no text is tokenized."""
    model = GatedModel()
    async with running_world(
        Plan(model=model, bounds=make_bounds(max_lanes=1, max_short_lanes=0, max_queued_turns=1))
    ) as world:
        nobody = Caller("ann", "nothing")
        model.close()
        tickets = [world.engine.submit(Turn(world.engine.start_snapshot, (1,), Predict(1)))]
        await model.until_held()  # so that the lane is busy, and the next one stays in the queue
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
    """Its branches, which are submitted after its input was fed; and a word search after its prediction."""
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


async def collect(pieces: AsyncIterator[GenerationPiece]) -> list[GenerationPiece]:
    return [piece async for piece in pieces]


def marked_text(num_characters: int) -> str:
    return ("abcdefgh" * (num_characters // 8 + 1))[:num_characters]


async def test_a_long_text_is_tokenized_beside_the_event_loop() -> None:
    """The ids are those of a short text's way, and the loop turns meanwhile."""
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
    """The text is that of a short list's way, also where a character's bytes meet the end of a slice; the loop turns
    again and again meanwhile."""
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
    """As they do where tokens are bytes."""
    encoder = Encoder(byte_tokenizer(), make_limits(10**6, 9), 256)
    text = "日本" * 2_000
    assert await encoder.decode(list(text.encode())) == text
    encoder.close()


@pytest.mark.parametrize("num_good", [0, 5_000])
async def test_ids_that_there_are_not_have_no_text(num_good: int) -> None:
    """However far behind in the list."""
    async with running_world() as world:
        with pytest.raises(InvalidRequest, match="^ids: token id 99 "):
            await world.sessions.detokenize("ann", [*([1] * num_good), 99])


async def test_long_lists_of_owners_take_turns() -> None:
    """Whoever asks for much waits for himself."""
    async with running_world() as world:
        done: list[str] = []

        async def ask(owner: str) -> None:
            await world.sessions.detokenize(owner, [1] * 5_000)
            done.append(owner)

        await asyncio.gather(*map(ask, ["mallory"] * 4 + ["bob"]))
        assert done.index("bob") == 2  # after the one that ran, and the one that came before him


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


async def test_an_answer_that_cannot_be_kept_is_not_collected() -> None:
    """A long rating with a request id is given out whole and remembered as applied."""
    plan = Plan(retention=replace(Plan().retention, max_answer_bytes=2_000))
    async with running_world(plan) as world:
        await world.open()
        caller = replace(ANN, request_id="r")
        tokens, totals = await score(world, caller, ScoringRequest((1, 2) * 100))
        assert (len(tokens), totals.num_tokens, totals.standing.position) == (200, 200, 200)
        with pytest.raises(AnswerGone):
            await score(world, caller, ScoringRequest((1, 2) * 100))
        assert (await world.operations.get("ann", "s")).position == 200


async def test_turns_on_one_session_queue_in_order_up_to_a_bound() -> None:
    """Turns sent at once run one after the other as they came; the one beyond the bound is refused."""
    async with running_world(Plan(max_turns_per_session=3)) as world:
        await world.open()
        order = [(1, 2), (3,), (4, 5, 6), (7,), (8,)]
        turns = [world.sessions.predict(ANN, PredictionRequest(ids)) for ids in order]
        results = await asyncio.gather(*turns, return_exceptions=True)
        assert isinstance(results[4], Overloaded)
        assert [result.standing.position for result in results[:4] if not isinstance(result, BaseException)] == [
            2,
            3,
            6,
            7,
        ]
        expected = world.oracle.feed(world.oracle.start(), (1, 2, 3, 4, 5, 6, 7))
        assert same_snapshot(await world.snapshot(), expected)


async def test_bad_requests_are_refused_before_the_session_is_touched() -> None:
    """Ids outside the vocabulary, too much input or output, bad options: InvalidRequest, nothing changed."""
    async with running_world(Plan(limits=make_limits(max_input_tokens=4, max_generated_tokens=4))) as world:
        session = await world.open()
        for turn in (
            generate(world, ANN, GenerationRequest((16,), GREEDY, 1)),
            generate(world, ANN, GenerationRequest("abcde", GREEDY, 1)),
            generate(world, ANN, GenerationRequest("a", GREEDY, 5)),
            score(world, ANN, ScoringRequest((-1,))),
            score(world, ANN, ScoringRequest("a", num_top=0)),
            world.sessions.predict(ANN, PredictionRequest("a", num_candidates=257)),
            world.sessions.predict_unkept(None, PredictionRequest((99,)), Caller("ann")),
        ):
            with pytest.raises(InvalidRequest):
                await turn
        assert await world.operations.get("ann", "s") == session


async def test_a_model_is_known_by_name_and_digest() -> None:
    """Nothing, its name and its digest all mean the model; anything else is not here."""
    async with running_world() as world:
        for name in ("", "toy", world.manifest.digest):
            world.sessions.check_model(name)
        with pytest.raises(ModelNotFound):
            world.sessions.check_model("other")


async def test_pace_and_tokens_are_counted() -> None:
    """A generation of n tokens is one time to the first, a mean for each later piece, and n generated."""
    async with running_world() as world:
        request = GenerationRequest("ab", GREEDY, 7)
        pieces = [len(piece.tokens) async for piece in world.sessions.generate(Caller("ann"), request)]
        assert world.value("generated_tokens_total") == 7
        assert world.value("time_to_first_token_seconds_count") == 1
        assert world.value("time_between_tokens_seconds_count") == sum(size > 0 for size in pieces) - 1


async def test_a_thousand_interleaved_turns_on_fifty_sessions() -> None:
    """Predict, Score, greedy and seeded Generate, some given up, on 50 sessions: always the oracle's answer."""
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
    """Do one turn and check its answer; where the session must stand after it."""
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
            return past if piece.end is None else oracle.greedy(past, ids, 1000)[1]  # on a slow machine it was all


async def test_long_texts_of_one_owner_do_not_keep_anothers_waiting() -> None:
    """A long text waits for one of another owner's at most, however many he has sent before."""
    async with running_world(Plan(limits=make_limits(100_000, 10))) as world:
        done: list[str] = []

        async def tokenize(owner: str) -> None:
            await world.sessions.tokenize(owner, "ab" * 2_000)
            done.append(owner)

        await asyncio.gather(*(tokenize("mallory") for _ in range(20)), tokenize("bob"))
        assert done.index("bob") <= 2
