"""Several generations at once from one input: each is what it is alone, and the session goes on from the first."""

import asyncio
import contextlib
import time
import tracemalloc
from collections.abc import AsyncGenerator, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json
from tests.bounds import make_bounds
from tests.fakes import ToyModel, byte_tokenizer, same_snapshot
from tests.worlds import Plan, World, running_world

from carousel.errors import ModelFailed
from carousel.sessions.branch import Branch, merge
from carousel.sessions.requests import Caller, GenerationEnd, GenerationPiece, GenerationRequest
from carousel.turns import Candidate, Ended, FinishReason, Generate, Generated, Sampling, SamplingOptions, Snapshot

ANN = Caller("ann", "s")


async def branches_of(world: World, caller: Caller, request: GenerationRequest) -> dict[int, list[GenerationPiece]]:
    """Pieces by branch, checked: one end each, as its last; branch 0 ends last of all."""
    pieces = [piece async for piece in world.sessions.generate(caller, request)]
    found: dict[int, list[GenerationPiece]] = {}
    for piece in pieces:
        found.setdefault(piece.branch, []).append(piece)
    for own in found.values():
        assert [piece.end is None for piece in own] == [True] * (len(own) - 1) + [False]
    assert pieces[-1].branch == 0
    return found


def ids_of(pieces: list[GenerationPiece]) -> list[int]:
    return [token.id for piece in pieces for token in piece.tokens]


@pytest.mark.parametrize("max_lanes", [1, 2, 64])
async def test_branches_are_what_each_seed_gives_alone(max_lanes: int) -> None:
    """Branch k has seed + k, whoever shares its batch; the session stands where branch 0 ended."""
    async with running_world(Plan(bounds=make_bounds(max_lanes=max_lanes))) as world:
        await world.open()
        request = GenerationRequest((1, 2), SamplingOptions(seed=2**64 - 2), 7, num_branches=4)
        found = await branches_of(world, ANN, request)
        assert sorted(found) == [0, 1, 2, 3]
        oracle = world.oracle
        for number, seed in enumerate((2**64 - 2, 2**64 - 1, 0, 1)):
            expected, after = oracle.sample(oracle.start(), (1, 2), 7, Sampling(seed=seed))
            end = found[number][-1].end
            assert end is not None
            assert ids_of(found[number]) == expected
            assert (end.seed, end.standing.position, end.reason) == (seed, 9, FinishReason.LENGTH)
            assert (end.num_input_tokens, end.num_generated_tokens) == (2, 7)
            if number == 0:
                assert same_snapshot(await world.snapshot(), after)


async def test_the_input_of_branches_is_fed_once() -> None:
    """A prompt of many tokens costs one pass however many branches follow."""
    model = ToyModel()
    async with running_world(Plan(model=model, bounds=make_bounds(max_chunk_tokens=100))) as world:
        await branches_of(world, Caller("ann"), GenerationRequest((1,) * 50, SamplingOptions(seed=1), 3, 8))
        assert [shape for shape in model.steps if shape[1] == 50] == [(1, 50)]


async def test_branches_stop_each_for_itself() -> None:
    """One that meets its stop ends alone; the others go on to their length."""
    async with running_world() as world:
        request = GenerationRequest((1,), SamplingOptions(seed=5, temperature=2), 30, 6, stop_ids=(3,))
        found = await branches_of(world, Caller("ann"), request)
        reasons = set()
        for own in found.values():
            ids, end = ids_of(own), own[-1].end
            assert end is not None
            reasons.add(end.reason)
            if end.reason is FinishReason.STOP_ID:
                assert ids.index(3) == len(ids) - 1
            else:
                assert len(ids) == 30
                assert 3 not in ids
        assert len(reasons) == 2


async def test_all_branches_are_repeated_from_the_record() -> None:
    """A repeat gives every branch again, marked as a repeat, and moves nothing."""
    async with running_world() as world:
        await world.open()
        caller = Caller("ann", "s", request_id="r")
        request = GenerationRequest((1, 2), SamplingOptions(), 5, num_branches=3)
        first, again = [await branches_of(world, caller, request) for _ in range(2)]
        for number in range(3):
            assert ids_of(first[number]) == ids_of(again[number])
            assert "".join(piece.text for piece in first[number]) == again[number][0].text
            end, repeated = first[number][-1].end, again[number][-1].end
            assert end is not None
            assert repeated is not None
            assert (end.seed, end.standing.is_replay) == (repeated.seed, False)
            assert (repeated.standing.position, repeated.standing.is_replay) == (7, True)
        assert (await world.operations.get("ann", "s")).position == 7


async def test_branches_that_are_given_up_free_their_lanes() -> None:
    """Closing the stream in the middle ends all of them, and the session has not moved."""
    async with running_world() as world:
        session = await world.open()
        pieces = world.sessions.generate(ANN, GenerationRequest("a", SamplingOptions(), 100_000, 5))
        async with contextlib.aclosing(pieces):
            for _ in range(10):
                await anext(pieces)
        while not world.is_idle:
            await asyncio.sleep(0)
        assert await world.operations.get("ann", "s") == session


async def test_a_branch_that_fails_fails_the_turn() -> None:
    """A NaN in one of them: the stream ends with the error, the others are ended, nothing is saved."""
    model = ToyModel()
    async with running_world(Plan(model=model)) as world:
        session = await world.open()
        model.poison_id = 3
        with pytest.raises(ModelFailed):
            await branches_of(world, ANN, GenerationRequest("a", SamplingOptions(seed=5, temperature=2), 1000, 6))
        while not world.is_idle:
            await asyncio.sleep(0)
        assert await world.operations.get("ann", "s") == session


# Branch by itself

BYTES = byte_tokenizer()
START = Snapshot(3, (), np.zeros(1, np.float32))
TOKENS = st.builds(
    Generated,
    st.integers(32, 126),
    st.none() | st.floats(-50, 0),
    st.lists(st.builds(Candidate, st.integers(0, 9999), st.floats(-50, 0)), max_size=3).map(tuple),
)


def make_branch(request: GenerationRequest, max_answer_bytes: int | None = None, *, owner: str = "") -> Branch:
    return Branch(
        BYTES, request, START, (65,), Sampling(seed=1), keeps_state=True, owner=owner, max_answer_bytes=max_answer_bytes
    )


def run_branch(branch: Branch, tokens: list[Generated], reason: FinishReason = FinishReason.LENGTH) -> GenerationEnd:
    """Tokens one by one, as the engine's thread and then the event loop see them."""
    goal = branch.turn().goal
    assert isinstance(goal, Generate)
    for token in tokens:
        if goal.is_stop is not None and token.id not in goal.stop_ids:
            goal.is_stop(token.id)
        branch.piece((token,), None)
    end = branch.piece((), Ended(reason, START)).end
    assert end is not None
    return end


@given(st.lists(TOKENS, max_size=12), st.integers(0, 1500))
def test_an_answer_that_fits_is_kept(tokens: list[Generated], max_answer_bytes: int) -> None:
    """No answer whose record is small enough is given up, and one that is kept is whole."""
    branch = make_branch(GenerationRequest(max_tokens=12), max_answer_bytes)
    answer = branch.answer(run_branch(branch, tokens))
    whole = make_branch(GenerationRequest(max_tokens=12), 2**24)
    expected = whole.answer(run_branch(whole, tokens))
    assert expected is not None
    assert expected.tokens == tuple(tokens)
    if len(to_json(expected)) <= max_answer_bytes:
        assert answer == expected
    assert answer in (None, expected)


@pytest.mark.parametrize("max_answer_bytes", [None, 0, 1000])
def test_an_answer_that_is_not_to_be_recorded_or_too_large_is_none(max_answer_bytes: int | None) -> None:
    """The pieces, the end and the ids are what they are with it."""
    tokens = [Generated(97)] * 100
    branch = make_branch(GenerationRequest(max_tokens=100), max_answer_bytes)
    end = run_branch(branch, tokens)
    assert branch.answer(end) is None
    assert branch.consumed() == (65, *([97] * 100))
    assert (end.num_generated_tokens, end.standing.position) == (100, 104)


def candidates_in_pieces(num_tokens: int) -> Iterator[tuple[Generated, ...]]:
    for number in range(num_tokens):
        yield (Generated(97, -1.0 - number, tuple(Candidate(n, -n - 0.5) for n in range(64))),)


def test_sixteen_branches_of_many_candidates_keep_no_more_than_the_record_may_have() -> None:
    """16 branches of 400 tokens with 64 candidates each: 4 MiB at most are held at any moment, not the 45 MiB that
    all of them take."""
    request = GenerationRequest(num_branches=16, max_tokens=400, num_log_probabilities=64)
    branches = [make_branch(request, 65_536) for _ in range(16)]
    tracemalloc.start()
    try:
        for branch in branches:
            for tokens in candidates_in_pieces(400):
                branch.piece(tokens, None)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2**20
    assert peak < 2**22


def test_many_stop_ids_cost_the_reader_nothing() -> None:
    """1,024 stop ids and 20,000 tokens in 64s: less than 50 ms of the event loop, where comparing each took half a
    second; the engine gets them as a set, made once."""
    branch = make_branch(GenerationRequest(max_tokens=20_000, stop_ids=tuple(range(1000, 2024))))
    pieces = [(Generated(97),) * 64] * (20_000 // 64)
    started = time.thread_time()
    for tokens in pieces:
        branch.piece(tokens, None)
    assert time.thread_time() - started < 0.05
    goals = [branch.turn().goal for _ in range(2)]
    assert isinstance(goals[0], Generate)
    assert isinstance(goals[1], Generate)
    assert goals[0].stop_ids is goals[1].stop_ids
    assert goals[0].stop_ids == frozenset(range(1000, 2024))


def test_a_stop_id_has_no_text() -> None:
    """It counts as consumed; the text ends before it, and what was held back for a stop string is given."""
    branch = make_branch(GenerationRequest(max_tokens=9, stop_ids=(33,), stop=("bcd",)), 1000)
    end = run_branch(branch, [Generated(byte) for byte in b"abc!"], FinishReason.STOP_ID)
    answer = branch.answer(end)
    assert answer is not None
    assert (answer.text, end.stop, end.num_generated_tokens) == ("abc", "", 4)
    assert branch.consumed() == tuple(b"Aabc!")


def test_a_stop_string_is_left_out_and_named() -> None:
    """The tokens that spell it count; its text does not."""
    branch = make_branch(GenerationRequest(max_tokens=9, stop=("cd",)), 1000)
    end = run_branch(branch, [Generated(byte) for byte in b"abcd"], FinishReason.STOP)
    answer = branch.answer(end)
    assert answer is not None
    assert (answer.text, end.stop, end.num_generated_tokens) == ("ab", "cd", 4)


def test_a_branch_is_its_owners() -> None:
    """The engine is told whose turn it is."""
    assert make_branch(GenerationRequest(), owner="ann").turn().owner == "ann"


# merge


class Sources:
    """Generators that note their end."""

    def __init__(self) -> None:
        self.num_open = 0

    async def count(self, first: int, last: int, error: Exception | None = None) -> AsyncGenerator[int]:
        self.num_open += 1
        try:
            for number in range(first, last):
                await asyncio.sleep(0)
                yield number
            if error is not None:
                raise error
        finally:
            self.num_open -= 1

    async def wait(self) -> AsyncGenerator[int]:
        self.num_open += 1
        try:
            await asyncio.Event().wait()
            yield 0
        finally:
            self.num_open -= 1


async def test_merge_gives_all_items_each_source_in_order() -> None:
    """Of any number of sources, none among them."""
    sources = Sources()
    found = [item async for item in merge([sources.count(0, 5), sources.count(10, 12), sources.count(20, 20)])]
    assert [item for item in found if item < 10] == [0, 1, 2, 3, 4]
    assert [item for item in found if item >= 10] == [10, 11]
    assert [item async for item in merge(list[AsyncGenerator[int]]())] == []
    assert sources.num_open == 0


async def test_merge_raises_what_a_source_raises_and_ends_the_others() -> None:
    """Also those that would wait for ever."""
    sources = Sources()
    merged = merge([sources.wait(), sources.count(0, 2, ValueError("oops")), sources.wait()])
    assert [await anext(merged), await anext(merged)] == [0, 1]
    with pytest.raises(ValueError, match="oops"):
        await anext(merged)
    assert sources.num_open == 0


async def test_merge_that_is_closed_or_cancelled_closes_its_sources() -> None:
    """Nothing is left running."""
    sources = Sources()
    merged = merge([sources.wait(), sources.count(0, 100)])
    await anext(merged)
    await merged.aclose()
    assert sources.num_open == 0
    waiting = asyncio.ensure_future(anext(merge([sources.wait(), sources.wait()])))
    while sources.num_open < 2:
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert sources.num_open == 0
