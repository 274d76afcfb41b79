"""Whole words from a beam over spellings: on a tiny vocabulary, every word there is says what must be found."""

import asyncio
import collections
import itertools
import math
from typing import Any

import numpy as np
import pytest
from tests.bounds import make_bounds
from tests.fakes import GatedModel, SlowOracle, ToyModel, character_tokenizer
from tests.worlds import Plan, World, running_world

from carousel.bundle.layout import Array, Rows
from carousel.bundle.tokenizer import Tokenizer
from carousel.engine.delivery import Ticket
from carousel.engine.sampler import log_probabilities
from carousel.errors import Overloaded
from carousel.sessions.words import WordSearch
from carousel.turns import Snapshot, Turn

DEPTH = 7


class Spelt:
    """A vocabulary of given spellings; all that the search wants of a tokenizer."""

    def __init__(self, *spellings: bytes) -> None:
        self.spellings = spellings


def search(world: World, *spellings: bytes) -> WordSearch:
    tokenizer: Tokenizer = Spelt(*spellings)  # type: ignore[assignment]
    return WordSearch(tokenizer, world.engine.submit)


def every_word(oracle: SlowOracle, start: Snapshot, spellings: tuple[bytes, ...], prefix: bytes) -> dict[bytes, float]:
    """All words of up to DEPTH tokens, with the summed probability of their spellings that end."""
    found: dict[bytes, float] = {}

    def grow(snapshot: Snapshot, spelled: bytes, log_prob: float, depth: int) -> None:
        log_probs_V = log_probabilities(oracle.logits(snapshot))
        for token, piece in enumerate(spellings):
            longer = spelled + piece
            if not (longer.startswith(prefix) or prefix.startswith(longer)):
                continue
            total = log_prob + float(log_probs_V[token])
            letters = longer[len(prefix) :]
            ends = [at for at, byte in enumerate(letters) if not chr(byte).isalnum()] if letters else []
            if ends:
                word = prefix + letters[: ends[0]]
                if word.strip():
                    found[word] = found.get(word, 0.0) + math.exp(total)
            elif depth < DEPTH:
                grow(oracle.feed(snapshot, (token,)), longer, total, depth + 1)

    grow(start, b"", 0.0, 1)
    return found


SPELLINGS = (b" ", b"a", b"b", b"ab", b"ba ", b".")


class SureModel(ToyModel):
    """Ends its words soon, so that what lies beyond the exhaustive search's depth does not count."""

    def logits(self, hidden_NH: Rows) -> Array:
        logits_NV = super().logits(hidden_NH)
        logits_NV[:, [0, 5]] += 4
        return np.asarray(logits_NV)


@pytest.mark.parametrize("prefix", ["a", "ab", "b", "bab", "aab"])
@pytest.mark.parametrize("seed", range(4))
async def test_the_likeliest_words_of_all_are_found(prefix: str, seed: int) -> None:
    """The first words are those of an exhaustive enumeration, with most of the probability of all their spellings."""
    async with running_world(Plan(model=SureModel(len(SPELLINGS), seed=seed))) as world:
        start = world.oracle.feed(world.engine.start_snapshot, (1, 0))
        words = await search(world, *SPELLINGS).find(start, prefix, 3)
        everything = every_word(world.oracle, start, SPELLINGS, prefix.encode())
    best = sorted(everything.items(), key=lambda item: -item[1])[:3]
    assert [word.text.encode() for word in words] == [text for text, _ in best]
    for word, (_, probability) in zip(words, best, strict=True):
        assert 0.9 * probability <= math.exp(word.log_probability) <= probability * (1 + 1e-5)


async def test_all_words_begin_with_the_prefix_and_come_likeliest_first() -> None:
    """Whatever the prefix, it is honoured letter by letter, and nothing after it that ends a word is part of one."""
    async with running_world(Plan(model=SureModel(len(SPELLINGS)))) as world:
        finder = search(world, *SPELLINGS)
        for letters in itertools.product("ab", repeat=3):
            prefix = "".join(letters)
            words = await finder.find(world.engine.start_snapshot, prefix, 5)
            assert words
            assert all(word.text.startswith(prefix) and word.text.isalpha() for word in words)
            likely = [word.log_probability for word in words]
            assert likely == sorted(likely, reverse=True)


async def test_leading_space_belongs_to_the_word() -> None:
    """With the space before it typed, or nothing typed, the word comes with its space where the model puts one."""
    async with running_world(Plan(model=SureModel(len(SPELLINGS)))) as world:
        words = await search(world, *SPELLINGS).find(world.engine.start_snapshot, " a", 3)
        assert words
        assert all(word.text.startswith(" a") for word in words)
        free = await search(world, *SPELLINGS).find(world.engine.start_snapshot, "", 3)
        assert free
        assert all(word.text.strip() for word in free)


async def test_a_prefix_that_no_token_spells_has_no_words() -> None:
    """Letters outside the vocabulary give nothing, quickly."""
    async with running_world(Plan(model=ToyModel(len(SPELLINGS)))) as world:
        assert await search(world, *SPELLINGS).find(world.engine.start_snapshot, "xyz", 5) == ()


@pytest.mark.parametrize("rest", [b"a", b"ab", b"abc", b"b\xff", b"\xff", b"\xff\xff", b"\xfe", b"zz", b"\x00"])
async def test_continuations_are_all_tokens_that_fit(rest: bytes) -> None:
    """Those that begin with what is left of the prefix, and those with which that begins."""
    spellings = (
        b"",
        b"\xff\xff",
        b"b",
        b"ab",
        b"abcd",
        b"a",
        b"ab",
        b"abd",
        b"b\xff\xff",
        b"c",
        b"\xff",
        b"b\xff",
        b"\x00\x01",
    )
    async with running_world(Plan()) as world:
        found = search(world, *spellings)._continuations(rest)
        fit = [index for index, one in enumerate(spellings) if one and (one.startswith(rest) or rest.startswith(one))]
        assert found is not None
        assert (found.tolist(), found.dtype) == (fit, np.dtype(np.int64))


async def test_searches_look_at_their_answers_one_a_round() -> None:
    """A step answers many of them at once: the event loop belongs to others in between."""
    async with running_world(Plan(ToyModel(len(SPELLINGS)))) as world:
        finder, number, looked = search(world, *SPELLINGS), 0, collections.Counter[int]()
        expand = finder._expand

        def expand_and_note(answers: Any) -> Any:
            looked[number] += 1
            return expand(answers)

        async def count_rounds() -> None:
            nonlocal number
            while True:
                await asyncio.sleep(0)
                number += 1

        finder._expand = expand_and_note  # type: ignore[method-assign]
        counting = asyncio.create_task(count_rounds())
        start = world.engine.start_snapshot
        found = await asyncio.gather(*(finder.find(start, "a", 3) for _ in range(20)))
        counting.cancel()
        assert len(set(found)) == 1
        assert sum(looked.values()) >= 20
        assert max(looked.values()) == 1


async def test_no_words_are_wanted() -> None:
    """Zero words is a legal wish."""
    async with running_world(Plan(model=SureModel(len(SPELLINGS)))) as world:
        assert await search(world, *SPELLINGS).find(world.engine.start_snapshot, "a", 0) == ()


async def test_all_turns_of_a_search_are_the_owners() -> None:
    """The engine is told whose they are, so that lanes are shared fairly."""
    async with running_world(Plan(model=SureModel(len(SPELLINGS)))) as world:
        turns: list[Turn] = []

        def submit(turn: Turn) -> Ticket:
            turns.append(turn)
            return world.engine.submit(turn)

        finder = WordSearch(Spelt(*SPELLINGS), submit)  # type: ignore[arg-type]
        assert await finder.find(world.engine.start_snapshot, "a", 3, "ann")
    assert len(turns) > 1
    assert {turn.owner for turn in turns} == {"ann"}


class ScornfulModel(ToyModel):
    """Finds the second token impossible, as far as float32 goes."""

    def logits(self, hidden_NH: Rows) -> Array:
        logits_NV = np.zeros((hidden_NH.shape[0], self.vocabulary_size), np.float32)
        logits_NV[:, 1] = -400
        return logits_NV


async def test_a_word_too_unlikely_for_a_float_is_still_answered() -> None:
    """A typed prefix of probability below the least float has a logarithm, and its words are found."""
    async with running_world(Plan(model=ScornfulModel(3))) as world:
        words = await search(world, b" ", b"z", b"a").find(world.engine.start_snapshot, "zzz", 2)
    assert words[0].text == "zzz"
    assert words[0].log_probability < -1190


async def test_a_failure_on_the_way_leaves_no_turn_behind() -> None:
    """When the queue refuses part of a beam, the part that was accepted is given up."""
    model = GatedModel()
    async with running_world(Plan(model=model, bounds=make_bounds(max_lanes=1, max_queued_turns=2))) as world:

        def submit(turn: Turn) -> Ticket:
            if turn.ids:  # a branch: from here on none ends, so that the queue cannot empty meanwhile
                model.close()
            return world.engine.submit(turn)

        finder = WordSearch(character_tokenizer("abcdefghijklmn\n"), submit)
        with pytest.raises(Overloaded):
            await finder.find(world.engine.start_snapshot, "", 5)
        model.gate.set()
        await world.engine.drain(5)
        assert world.is_idle
