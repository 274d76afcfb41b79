"""Hashed n-grams are the rows that a plain count of hashes names, in one piece or in several, and begin at zero."""

import pytest
import torch

from carousel_training.model import ModelConfig, RecurrentLM
from carousel_training.ngrams import FACTOR, PRIME, NgramEmbedding


def build(cell: str = "lstm", order: int = 4, *, block: str = "plain", ngram_dropout: float = 0.0) -> RecurrentLM:
    torch.manual_seed(0)
    shape = {"ngram_order": order, "ngram_buckets": 50, "ngram_dropout": ngram_dropout, "block": block}
    model = RecurrentLM(ModelConfig(30, cell, 2, 8, 6, True, dropout=0.0, **shape))  # type: ignore[arg-type]
    if model.ngrams is not None:
        torch.nn.init.normal_(model.ngrams.weight)
    return model


def row_of(tokens: list[int], num_buckets: int) -> int:
    """Returns the row of an n-gram, its tokens in the order of the text."""
    value = tokens[-1] + 1
    for token in reversed(tokens[:-1]):
        value = (value * FACTOR + token + 1) % PRIME
    return value % num_buckets + (len(tokens) - 2) * num_buckets


@pytest.mark.parametrize("order", [2, 3, 5])
def test_a_step_adds_the_rows_of_the_ngrams_that_end_there(order: int) -> None:
    """Each size of n-gram has rows of its own. Before the first token, an n-gram has -1 in its place."""
    ngrams = NgramEmbedding(order, 1000, 4)
    torch.nn.init.normal_(ngrams.weight)
    ids = torch.randint(200, (7,)).tolist()
    recent_1O = torch.full((1, order - 1), -1)
    x_T1E, recent_1O = ngrams(torch.tensor(ids)[:, None], recent_1O)
    padded = [-1] * (order - 1) + ids
    for step in range(7):
        end = step + order
        rows = [row_of(padded[end - size : end], 1000) for size in range(2, order + 1)]
        torch.testing.assert_close(x_T1E[step, 0], ngrams.weight[rows].sum(0))
    assert recent_1O.tolist() == [padded[-(order - 1) :]]


def test_large_ids_keep_their_hash() -> None:
    """The hash of the largest ids neither overflows nor turns negative."""
    ngrams = NgramEmbedding(3, 2**24, 1)
    largest = 2**31 - 2
    rows_112 = ngrams.find_rows(torch.full((3, 1), largest))
    assert rows_112.tolist() == [[[row_of([largest] * 2, 2**24), row_of([largest] * 3, 2**24)]]]


@pytest.mark.parametrize(("cell", "block"), [("lstm", "plain"), ("gru-2014", "plain"), ("minlstm", "residual")])
def test_pieces_give_what_the_whole_gives(cell: str, block: str) -> None:
    """A text that is cut anywhere, even into single tokens, gives the same logits and the same state."""
    model = build(cell, block=block).eval()
    ids_BT = torch.randint(30, (3, 9))
    whole_BTV, whole_state = model(ids_BT, model.initial_state(3))
    state, pieces = model.initial_state(3), []
    for piece_BT in torch.split(ids_BT, [1, 4, 2, 1, 1], dim=1):
        logits_BTV, state = model(piece_BT, state)
        pieces.append(logits_BTV)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole_BTV)
    torch.testing.assert_close(state, whole_state)
    assert state[-1].tolist() == ids_BT[:, -3:].tolist()


def test_the_last_tokens_are_part_of_the_state() -> None:
    """The layout ends with order - 1 ids, -1 at the start; without n-grams there are none."""
    tensors = build().state_layout.tensors
    assert [(t.name, t.shape, t.dtype, t.initial) for t in tensors[-1:]] == [("recent_ids", (3,), "int64", -1.0)]
    assert [tensor.name for tensor in build(order=1).state_layout.tensors] == ["h_0", "c_0", "h_1", "c_1"]


def test_fresh_ngrams_change_nothing() -> None:
    """Rows begin at zero, so an untrained network computes the same with n-grams and without."""
    torch.manual_seed(0)
    config = ModelConfig(30, "lstm", 1, 8, 6, True, dropout=0.0, ngram_order=3, ngram_buckets=20)
    model, ids_BT = RecurrentLM(config).eval(), torch.randint(30, (2, 5))
    torch.manual_seed(0)
    without = RecurrentLM(ModelConfig(30, "lstm", 1, 8, 6, True, dropout=0.0)).eval()
    torch.testing.assert_close(model(ids_BT, model.initial_state(2))[0], without(ids_BT, without.initial_state(2))[0])
    assert model.num_parameters == without.num_parameters + 2 * 20 * 6


def test_dropout_acts_on_ngrams_in_training_alone() -> None:
    """With a share of almost 1 the n-grams are gone in training, and all there in evaluation."""
    model, bare = build(ngram_dropout=0.9999), build(order=1)
    bare.load_state_dict({name: t for name, t in model.state_dict().items() if not name.startswith("ngrams.")})
    ids_BT = torch.randint(30, (2, 5))
    expected_BTV, _ = bare(ids_BT, bare.initial_state(2))
    torch.testing.assert_close(model.train()(ids_BT, model.initial_state(2))[0], expected_BTV)
    assert not torch.allclose(model.eval()(ids_BT, model.initial_state(2))[0], expected_BTV)
