"""Several requests on a session give what one gives, in state and in text, and bad requests change nothing."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from tests.bounds import make_bounds, make_limits
from tests.fakes import ToyModel, byte_tokenizer, same_snapshot
from tests.server.sessions.service_turns import ANN, GREEDY, generate, score
from tests.worlds import Plan, running_world

from carousel.engine import sampler
from carousel.errors import AnswerGone, InvalidRequest, ModelNotFound, Overloaded
from carousel.sessions.requests import Caller, GenerationRequest, PredictionRequest, ScoringRequest
from carousel.turns import FinishReason, SamplingOptions


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


async def test_a_random_seed_is_reported_and_gives_the_generation_again() -> None:
    """Without a seed one is made; the same seed gives the same tokens again."""
    async with running_world() as world:
        tokens, text, end = await generate(world, Caller("ann"), GenerationRequest("a", max_tokens=30))
        other, _, other_end = await generate(world, Caller("ann"), GenerationRequest("a", max_tokens=30))
        assert (other, other_end.seed) != (tokens, end.seed)
        again = await generate(
            world, Caller("ann"), GenerationRequest("a", SamplingOptions(seed=end.seed), max_tokens=30)
        )
        assert again == (tokens, text, end)


async def test_a_stop_string_ends_the_text_and_the_session_has_consumed_it() -> None:
    """The text ends before the stop; all tokens, even the stop's, are part of the session."""
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
    """The stop token is consumed and reported, but its text is not shown."""
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


async def test_scores_name_the_likeliest_in_each_place() -> None:
    """They are the oracle's, in any chunk; the scored token has the same bits among them as by itself."""
    text = "abcabcnm"
    for max_chunk_tokens in (1, 3, 8):
        async with running_world(Plan(bounds=make_bounds(max_chunk_tokens=max_chunk_tokens))) as world:
            tokens, _ = await score(world, Caller("ann"), ScoringRequest(text, num_candidates=5))
            oracle, snapshot = world.oracle, world.oracle.start()
            for token in tokens:
                logits_V = oracle.logits(snapshot)
                assert [one.id for one in token.candidates] == [one.id for one in sampler.rank_candidates(logits_V, 5)]
                same = [one.log_probability for one in token.candidates if one.id == token.id]
                assert same == ([token.log_probability] if token.rank <= 5 else [])
                snapshot = oracle.feed(snapshot, (token.id,))


async def test_candidates_of_scores_are_bounded() -> None:
    """In each place, and all together."""
    async with running_world(
        Plan(limits=make_limits(max_input_tokens=99, max_generated_tokens=9, max_answer_items=1000))
    ) as world:
        for num_candidates, text in ((65, "ab"), (64, "ab" * 8)):
            with pytest.raises(InvalidRequest, match="num_candidates"):
                await score(world, Caller("ann"), ScoringRequest(text, num_candidates=num_candidates))


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
    """predict_unkept goes on from the snapshot that it gave, and no session is made."""
    async with running_world() as world:
        _, snapshot = await world.sessions.predict_unkept(None, PredictionRequest("ab"), Caller("ann"))
        prediction, snapshot = await world.sessions.predict_unkept(snapshot, PredictionRequest("c"), Caller("ann"))
        assert prediction.standing.position == 3
        assert same_snapshot(snapshot, world.oracle.feed(world.oracle.start(), (1, 2, 3)))
        assert await world.store.num_live() == 0


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
    """Turns that are sent at once run in order of arrival; one beyond the bound is refused."""
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
    """Ids outside the vocabulary, too much input or output and bad options are InvalidRequest and change nothing."""
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
    """No name, its name and its digest all mean the model; any other name is unknown."""
    async with running_world() as world:
        for name in ("", "toy", world.manifest.digest):
            world.sessions.check_model(name)
        with pytest.raises(ModelNotFound):
            world.sessions.check_model("other")


async def test_pace_and_tokens_are_counted() -> None:
    """A generation of n tokens counts one time to the first, a mean for each later piece, and n generated tokens."""
    async with running_world() as world:
        request = GenerationRequest("ab", GREEDY, 7)
        pieces = [len(piece.tokens) async for piece in world.sessions.generate(Caller("ann"), request)]
        assert world.value("generated_tokens_total") == 7
        assert world.value("time_to_first_token_seconds_count") == 1
        assert world.value("time_between_tokens_seconds_count") == sum(size > 0 for size in pieces) - 1
