"""In the synthetic tasks, the input determines the answers, and nothing else does."""

import pytest
import torch

from carousel_training.studies.recall_tasks import (
    BRACKET_DEPTH,
    NUM_BRACKETS,
    NUM_COPIED,
    NUM_NOUNS,
    NUM_PREPOSITIONS,
    NUM_SYMBOLS,
    TASKS,
    Task,
    draw_adding,
    draw_agreement,
    draw_brackets,
    draw_copy,
    task_accuracy,
    task_loss,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("gap", [1, 2, 5, 8])
def test_batches_have_the_sizes_that_the_task_says(task: Task, gap: int) -> None:
    """One more step of gap is one more step of input; equal seeds draw equal batches."""
    batch, longer = task.draw(gap, 6, generator()), task.draw(gap + 1, 6, generator())
    assert batch.x_TBX.shape[1:] == (6, task.num_inputs)
    assert len(longer.x_TBX) == len(batch.x_TBX) + 1
    assert torch.equal(batch.x_TBX, task.draw(gap, 6, generator()).x_TBX)
    if not batch.targets_NB.is_floating_point():
        assert 0 <= int(batch.targets_NB.min()) <= int(batch.targets_NB.max()) < task.num_outputs


def test_copy_asks_for_the_symbols_in_order() -> None:
    """Symbols, blanks, cues; the targets are the symbols."""
    batch = draw_copy(4, 5, generator())
    ids_TB = batch.x_TBX.argmax(dim=2)
    assert torch.equal(ids_TB[:NUM_COPIED], batch.targets_NB)
    assert (ids_TB[NUM_COPIED : NUM_COPIED + 4] == NUM_SYMBOLS).all()
    assert (ids_TB[NUM_COPIED + 4 :] == NUM_SYMBOLS + 1).all()


def test_adding_asks_for_the_sum_of_the_marked() -> None:
    """Two marks, `gap` unmarked numbers between them."""
    x_TBX, targets_NB = draw_adding(6, 5, generator())
    assert x_TBX[..., 1].sum(dim=0).tolist() == [2.0] * 5
    torch.testing.assert_close((x_TBX[..., 0] * x_TBX[..., 1]).sum(dim=0), targets_NB[0])


@pytest.mark.parametrize("gap", [6, 7])
def test_brackets_close_in_reverse(gap: int) -> None:
    """Following the brackets with a stack gives the targets: the whole is balanced."""
    batch = draw_brackets(gap, 20, generator())
    ids_TB = batch.x_TBX.argmax(dim=2)
    for lane in range(20):
        stack: list[int] = []
        for token in ids_TB[: BRACKET_DEPTH + gap, lane].tolist():
            if token < NUM_BRACKETS:
                stack.append(token)
            elif token < 2 * NUM_BRACKETS:
                assert stack.pop() == token - NUM_BRACKETS
        assert stack[::-1] == batch.targets_NB[:, lane].tolist()
    answers_NB = ids_TB[-(BRACKET_DEPTH - 1) :] - NUM_BRACKETS
    assert torch.equal(answers_NB, batch.targets_NB[:-1])


def test_the_last_noun_says_nothing_about_the_verb() -> None:
    """The target is the subject's number; the nearest noun agrees with it about half of the time."""
    batch = draw_agreement(9, 4000, generator())
    ids_TB = batch.x_TBX.argmax(dim=2)
    is_noun_TB = ids_TB < 2 * NUM_NOUNS
    assert torch.equal((ids_TB[0] >= NUM_NOUNS).long(), batch.targets_NB[0])
    has_attractor_B = is_noun_TB[1:].any(dim=0)
    last_B = len(ids_TB) - 1 - is_noun_TB.flip(0).long().argmax(dim=0)
    is_plural_B = ids_TB[last_B, torch.arange(4000)] >= NUM_NOUNS
    agrees = (is_plural_B == batch.targets_NB[0].bool())[has_attractor_B].double().mean()
    assert has_attractor_B.double().mean() > 0.9
    assert abs(float(agrees) - 0.5) < 0.04


def test_nouns_between_follow_prepositions() -> None:
    """So the subject is the one noun without a preposition before it."""
    ids_TB = draw_agreement(9, 300, generator()).x_TBX.argmax(dim=2)
    is_noun_TB = ids_TB < 2 * NUM_NOUNS
    is_preposition_TB = (ids_TB >= 2 * NUM_NOUNS) & (ids_TB < 2 * NUM_NOUNS + NUM_PREPOSITIONS)
    assert torch.equal(is_noun_TB[1:], is_preposition_TB[:-1])


@pytest.mark.parametrize("name", list(TASKS))
def test_chance_is_what_a_constant_answer_gets(name: str) -> None:
    """The best constant answer is right as often as the task's `chance` says."""
    task = TASKS[name]
    targets_NB = task.draw(4, 20_000, generator()).targets_NB
    outputs_NBY = torch.zeros((*targets_NB.shape, task.num_outputs))
    outputs_NBY[..., 0] = 1.0  # class 0, or the mean of the sum
    assert task_accuracy(outputs_NBY, targets_NB) == pytest.approx(task.chance, abs=0.01)


@pytest.mark.parametrize("name", list(TASKS))
def test_the_right_answer_is_right(name: str) -> None:
    """Right answers have an accuracy of 1 and a loss near 0."""
    task = TASKS[name]
    targets_NB = task.draw(4, 50, generator()).targets_NB
    if targets_NB.is_floating_point():
        outputs_NBY = targets_NB[..., None]
    else:
        outputs_NBY = 50.0 * torch.nn.functional.one_hot(targets_NB, task.num_outputs)
    assert task_accuracy(outputs_NBY, targets_NB) == 1.0
    assert float(task_loss(outputs_NBY, targets_NB)) < 1e-6
