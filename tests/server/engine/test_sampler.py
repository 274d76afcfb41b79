"""A slow, obvious sampler checks the fast one; draws are uniform and depend on seed and position alone."""

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carousel.engine import sampler
from carousel.turns import Array, Sampling

VOCABULARY = 9
# Coarse values, so that ties are common and rounding in another order cannot move a border.
logit_rows = st.lists(st.integers(-12, 12).map(lambda n: n / 2), min_size=VOCABULARY, max_size=VOCABULARY).map(
    lambda row: np.array(row, np.float32)
)
samplings = st.builds(
    Sampling,
    seed=st.integers(0, 2**64 - 1),
    temperature=st.sampled_from([0.0, 0.25, 1.0, 4.0]),
    top_k=st.integers(0, VOCABULARY + 2),
    top_p=st.sampled_from([0.07, 0.33, 0.71, 0.93, 1.0]),
    min_p=st.sampled_from([0.0, 0.03, 0.3, 1.0]),
    repetition_penalty=st.sampled_from([0.5, 1.0, 2.0]),
    presence_penalty=st.sampled_from([-1.5, 0.0, 1.5]),
    frequency_penalty=st.sampled_from([-0.5, 0.0, 0.5]),
    logit_bias=st.dictionaries(st.integers(0, VOCABULARY - 1), st.sampled_from([-100.0, -1.0, 3.0]), max_size=3).map(
        lambda biases: tuple(biases.items())
    ),
)


def weights_by_the_book(logits: Array, sampling: Sampling, recent: list[int]) -> list[tuple[int, float]]:
    """The wire contract, sentence by sentence: (id, probability) of what may be drawn, likeliest first."""
    values = [float(value) for value in logits]
    for token in set(recent):
        penalty = sampling.repetition_penalty
        values[token] = values[token] / penalty if values[token] > 0 else values[token] * penalty
        values[token] -= sampling.presence_penalty + sampling.frequency_penalty * recent.count(token)
    for token, bias in sampling.logit_bias:
        values[token] += bias
    order = sorted(range(len(values)), key=lambda token: (-values[token], token))
    if sampling.temperature == 0:
        return [(order[0], 1.0)]
    top = values[order[0]]
    kept = [(token, math.exp((values[token] - top) / sampling.temperature)) for token in order]
    if sampling.top_k:
        kept = kept[: sampling.top_k]
    if sampling.top_p < 1:
        total, reached, few = math.fsum(weight for _, weight in kept), 0.0, []
        for token, weight in kept:
            few.append((token, weight))
            reached += weight
            if reached >= sampling.top_p * total * (1 - 1e-12):
                break
        kept = few
    kept = [(token, weight) for token, weight in kept if weight >= sampling.min_p]
    total = math.fsum(weight for _, weight in kept)
    return [(token, weight / total) for token, weight in kept]


@settings(max_examples=400, deadline=None)
@given(logit_rows, samplings, st.lists(st.integers(0, VOCABULARY - 1), max_size=6), st.integers(0, 10_000))
def test_choose_does_what_the_contract_says(
    logits_V: Array, sampling: Sampling, recent: list[int], position: int
) -> None:
    """The choice is one that all options leave."""
    kept = weights_by_the_book(logits_V, sampling, recent)
    assert sampler.choose(logits_V, sampling, recent, position) in [token for token, _ in kept]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.6},
        {"top_p": 0.9},
        {"top_p": 0.2},
        {"top_p": 0.55, "temperature": 2.0},
        {"min_p": 0.2},
        {"min_p": 0.1, "top_p": 0.7},
        {"top_k": 3},
        {"top_k": 5, "top_p": 0.6},
        {"top_p": 0.8, "repetition_penalty": 1.5, "logit_bias": ((3, 1.0),)},
    ],
)
@pytest.mark.parametrize("num_tokens", [VOCABULARY, 200])
def test_each_token_is_drawn_as_often_as_the_contract_says(num_tokens: int, options: dict[str, Any]) -> None:
    """Over 20,000 positions the counts fit the kept tokens' shares (chi-square below its 1-in-10,000 point), in a
    vocabulary of one block of weights and of several."""
    logits_V = np.random.default_rng(3).normal(size=num_tokens).astype(np.float32) * 2
    logits_V[4] = logits_V[5] = logits_V[2]
    sampling, recent = Sampling(seed=11, **options), [1, 1, 2]
    kept = dict(weights_by_the_book(logits_V, sampling, recent))
    chosen = [sampler.choose(logits_V, sampling, recent, position) for position in range(20_000)]
    counts = np.bincount(chosen, minlength=num_tokens)
    assert counts.sum() == counts[list(kept)].sum()
    likely = [token for token, share in kept.items() if share * 20_000 >= 5]
    expected = np.array([kept[token] * 20_000 for token in likely])
    chi_square = float(((counts[likely] - expected) ** 2 / expected).sum())
    freedom = max(1, len(likely) - 1)
    # Wilson and Hilferty 1931: the cube root of chi-square over its mean is nearly normal.
    assert chi_square < freedom * (1 - 2 / (9 * freedom) + 3.8 * math.sqrt(2 / (9 * freedom))) ** 3


def test_what_is_kept_is_drawn_at_last() -> None:
    """Where top_p leaves so little that draws from the whole vocabulary miss it, a kept token is still drawn."""
    logits_V = np.zeros(5000, np.float32)
    chosen = [sampler.choose(logits_V, Sampling(seed=2, top_p=0.0004), (), position) for position in range(200)]
    assert set(chosen) == {0, 1}


@given(logit_rows, samplings, st.lists(st.integers(0, VOCABULARY - 1), max_size=6))
def test_the_logits_are_left_alone(logits_V: Array, sampling: Sampling, recent: list[int]) -> None:
    """Choosing never writes into the row it was given."""
    before = logits_V.tobytes()
    sampler.choose(logits_V, sampling, recent, 3)
    assert logits_V.tobytes() == before


def test_greedy_takes_the_lower_id_among_equals() -> None:
    """A tie at the top goes to the first of the tied."""
    logits_V = np.array([0, 2, 5, 5, 5], np.float32)
    assert sampler.choose(logits_V, Sampling(seed=0, temperature=0), (), 0) == 2


def test_top_k_keeps_the_lower_ids_among_equals() -> None:
    """Where top_k cuts through a tie, the lower ids stay."""
    logits_V = np.array([1, 4, 1, 4, 1, 4], np.float32)
    chosen = {sampler.choose(logits_V, Sampling(seed=seed, top_k=2), (), 0) for seed in range(200)}
    assert chosen == {1, 3}


@pytest.mark.parametrize("temperature", [1e-45, 1e-30, 1e-6])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    """As the temperature goes to 0 the choice goes to the likeliest; nothing overflows on the way."""
    logits_V = np.array([3.0, -1e30, 7.5, 7.0, 1e4], np.float32)
    for position in range(20):
        assert sampler.choose(logits_V, Sampling(seed=1, temperature=temperature), (), position) == 4


def test_the_smallest_temperature_there_is_overflows_nothing() -> None:
    """Not even a denormal temperature makes the weights something else than numbers."""
    logits_V = np.array([-3.0, -1.0, -2.0], np.float32)
    assert {sampler.choose(logits_V, Sampling(seed=s, temperature=5e-324), (), 0) for s in range(20)} == {1}


def test_huge_logits_are_drawn_from() -> None:
    """Logits near the end of float32 give probabilities, not infinities."""
    logits_V = np.array([3e38, -3e38, 3e38], np.float32)
    chosen = {sampler.choose(logits_V, Sampling(seed=seed), (), 0) for seed in range(100)}
    assert chosen == {0, 2}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_extreme_penalty_overflows_nothing(temperature: float) -> None:
    """Dividing a logit by the least penalty there is makes it likeliest, and two of them are still compared."""
    logits_V = np.array([5.0, 6.0, 7.0], np.float32)
    sampling = Sampling(seed=3, temperature=temperature, repetition_penalty=1e-45)
    assert {sampler.choose(logits_V, sampling, (0, 1), position) for position in range(50)} == {1}


@pytest.mark.parametrize("vocabulary_size", [5, 256, 1000, 33_278])
def test_rows_are_chosen_as_if_alone(vocabulary_size: int) -> None:
    """Whoever is in the batch, and wherever a row stands in it, its token is the same."""
    dice = np.random.default_rng(vocabulary_size)
    logits_NV = dice.normal(0, 0.6, (41, vocabulary_size)).astype(np.float32)
    options: list[dict[str, Any]] = [
        {"top_p": 0.95},
        {"top_p": 0.3, "temperature": 0.7},
        {},
        {"min_p": 0.05},
    ]
    samplings = [Sampling(seed=row, **options[row * row % len(options)]) for row in range(41)]
    weights_NV = sampler.weigh(logits_NV, [sampling.temperature for sampling in samplings])
    alone = [
        sampler.choose(logits_V, sampling, (), 10 + row)
        for row, (logits_V, sampling) in enumerate(zip(logits_NV, samplings, strict=True))
    ]
    assert sampler.draw_all(weights_NV, samplings, range(10, 51)) == alone
    for rows in (range(40, -1, -1), range(3, 41, 2), range(7, 24)):
        positions = [10 + row for row in rows]
        some = sampler.draw_all(weights_NV[list(rows)], [samplings[row] for row in rows], positions)
        assert some == [alone[row] for row in rows]


@pytest.mark.parametrize("options", [{"top_p": 0.7}, {"min_p": 0.2}, {"top_p": 0.4, "min_p": 0.01}])
def test_the_scale_of_the_weights_means_nothing(options: dict[str, Any]) -> None:
    """Probabilities, and weights a thousand times as large, lead to the same tokens."""
    weights_NV = np.exp(np.random.default_rng(1).normal(size=(50, 300)))
    samplings = [Sampling(seed=row, **options) for row in range(50)]
    expected = sampler.draw_all(weights_NV, samplings, range(50))
    assert sampler.draw_all(1024 * weights_NV, samplings, range(50)) == expected
    assert sampler.draw_all(weights_NV / weights_NV.sum(axis=1, keepdims=True), samplings, range(50)) == expected


@pytest.mark.parametrize(
    ("weights", "options", "kept"),
    [
        ([2, 1, 1], {"top_p": 0.5}, {0}),  # what reaches top_p to the last bit is enough
        ([1, 2, 1], {"top_p": 0.5}, {1}),
        ([2, 1, 1], {"top_p": 0.75}, {0, 1}),
        ([1, 1, 1, 1], {"top_p": 0.5}, {0, 1}),  # of equal ones the lower ids
        ([4, 2, 1], {"min_p": 0.5}, {0, 1}),  # and what is as likely as min_p asks is kept
        ([1, 0, 1], {}, {0, 2}),
    ],
)
def test_borders_are_exact(weights: list[int], options: dict[str, Any], kept: set[int]) -> None:
    """Where sums and products are exact, a token on the border is on the contract's side of it, by both ways to draw,
    and in the look at a single token."""
    weights_V, sampling = np.array(weights, np.float64), Sampling(seed=4, **options)
    order_V = np.argsort(-weights_V, kind="stable")
    for draws in (
        {sampler.draw_all(weights_V[None], [sampling], [position])[0] for position in range(300)},
        {sampler._draw_from_kept(order_V, weights_V[order_V], sampling, position) for position in range(300)},
        {
            token
            for token in range(len(weights))
            if sampler._is_kept(weights_V, token, sampling, weights_V.sum(), is_sure=False)
        },
    ):
        assert draws == kept


def test_what_top_p_leaves_keeps_its_shares() -> None:
    """Of the two that top_k and top_p leave, neither gets what the others had."""
    logits_V = np.log(np.array([4, 3, 2, 1], np.float32))
    sampling = Sampling(seed=6, top_k=4, top_p=0.65)
    chosen = [sampler.choose(logits_V, sampling, (), position) for position in range(4000)]
    assert set(chosen) == {0, 1}
    assert chosen.count(0) / 4000 == pytest.approx(4 / 7, abs=0.03)


def test_a_logit_between_none_and_one_is_divided() -> None:
    """The repetition penalty makes any logit above 0 smaller, and any below 0 more so."""
    sampling = Sampling(seed=0, temperature=0, repetition_penalty=2.0)
    assert sampler.choose(np.array([0.5, 0.45], np.float32), sampling, (0,), 0) == 1
    assert sampler.choose(np.array([-0.5, -0.55], np.float32), sampling, (0,), 0) == 1


def test_nothing_is_chosen_for_nobody() -> None:
    """A step in which no row is drawn."""
    assert sampler.draw_all(np.zeros((0, 5), np.float32), [], []) == []


@pytest.mark.parametrize(
    ("options", "is_plain"),
    [
        ({}, True),
        ({"top_p": 0.5, "min_p": 0.1, "temperature": 2.0}, True),
        ({"temperature": 0}, False),
        ({"temperature": 1e-12}, False),
        ({"temperature": 0.00099}, False),
        ({"temperature": 1e-3}, True),
        ({"frequency_penalty": 0.5}, False),
        ({"top_k": 5}, False),
        ({"logit_bias": ((1, 2.0),)}, False),
        ({"presence_penalty": 0.5}, False),
        ({"repetition_penalty": 1.5}, False),
    ],
)
def test_what_a_softmax_is_enough_for(options: dict[str, Any], is_plain: bool) -> None:
    """Whatever changes or orders logits before they are weighed needs the logits."""
    assert sampler.is_plain(Sampling(seed=1, **options)) is is_plain


def test_draws_are_uniform() -> None:
    """50,000 draws over positions, and as many over seeds, fill 20 equal bins evenly and lie in [0, 1)."""
    for draws in (
        [sampler.draw(1234, position) for position in range(50_000)],
        [sampler.draw(seed, 7) for seed in range(50_000)],
    ):
        counts, _ = np.histogram(draws, bins=20, range=(0, 1))
        chi_square = float(((counts - 2500.0) ** 2 / 2500.0).sum())
        assert chi_square < 43.8  # the 0.1 % point at 19 degrees of freedom
        assert min(draws) >= 0
        assert max(draws) < 1


def test_draws_of_neighbours_are_unrelated() -> None:
    """Consecutive positions and consecutive seeds show no correlation."""
    by_position = np.array([[sampler.draw(seed, position) for position in range(100)] for seed in range(100)])
    along = np.corrcoef(by_position[:, :-1].ravel(), by_position[:, 1:].ravel())[0, 1]
    across = np.corrcoef(by_position[:-1].ravel(), by_position[1:].ravel())[0, 1]
    assert abs(along) < 0.04
    assert abs(across) < 0.04


def test_draws_are_the_same_in_every_process() -> None:
    """A draw is a function of seed and position: another process gives the same, whatever its hash seed."""
    code = "from carousel.engine.sampler import draw; print([draw(s, p) for s in (0, 2**64 - 1) for p in (0, 2**40)])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == str([sampler.draw(s, p) for s in (0, 2**64 - 1) for p in (0, 2**40)])


def test_frequencies_follow_the_probabilities() -> None:
    """Over many positions each token is chosen about as often as its probability says."""
    logits_V = np.log(np.array([0.5, 0.05, 0.3, 0.15], np.float32))
    chosen = [sampler.choose(logits_V, Sampling(seed=5), (), position) for position in range(20_000)]
    np.testing.assert_allclose(np.bincount(chosen, minlength=4) / 20_000, [0.5, 0.05, 0.3, 0.15], atol=0.015)


@given(logit_rows, st.integers(0, VOCABULARY + 3))
def test_candidates_are_the_likeliest_in_order(logits_V: Array, num_candidates: int) -> None:
    """Candidates are the first of the full ranking, ties by id, with log-probabilities that sum to one."""
    found = sampler.rank_candidates(logits_V, num_candidates)
    order = sorted(range(VOCABULARY), key=lambda token: (-logits_V[token], token))
    assert [one.id for one in found] == order[:num_candidates]
    everything = sampler.rank_candidates(logits_V, VOCABULARY)
    assert math.fsum(math.exp(one.log_probability) for one in everything) == pytest.approx(1)


def test_candidates_among_allowed_ids_keep_their_probability() -> None:
    """Restricting the candidates changes who is named, not the log-probabilities."""
    logits_V = np.array([0, 1, 2, 3, 4], np.float32)
    allowed = sampler.rank_candidates(logits_V, 2, np.array([0, 2, 3]))
    whole = {one.id: one for one in sampler.rank_candidates(logits_V, 5)}
    assert allowed == (whole[3], whole[2])
    assert sampler.rank_candidates(logits_V, 2, np.array([], np.int64)) == ()
