"""Synthetic tasks that need memory over a gap: a signal, then `gap` steps of something else, then the question.

Inputs are real vectors, tokens in one-hot form; the last N steps ask. All randomness comes from the given generator.
Legend: T steps, B lanes, X input width, N asked steps, D brackets open at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn import functional

ADDING_TOLERANCE = 0.1
NUM_SYMBOLS, NUM_COPIED = 8, 3
NUM_BRACKETS, BRACKET_DEPTH = 4, 2
NUM_NOUNS, NUM_PREPOSITIONS, NUM_ADVERBS = 4, 2, 4  # nouns per number


class Batch(NamedTuple):
    """Integer targets are classes, real targets are values to approximate."""

    x_TBX: torch.Tensor
    targets_NB: torch.Tensor


@dataclass(frozen=True, slots=True)
class Task:
    """`draw(gap, num_lanes, generator)` draws a batch; `chance` is the accuracy without any memory."""

    name: str
    num_inputs: int
    num_outputs: int
    chance: float
    draw: Callable[[int, int, torch.Generator], Batch]


def draw_copy(gap: int, num_lanes: int, generator: torch.Generator) -> Batch:
    """Three of eight symbols, `gap` blanks, then three cues: repeat the symbols in order."""
    blank, cue = NUM_SYMBOLS, NUM_SYMBOLS + 1
    symbols_NB = torch.randint(NUM_SYMBOLS, (NUM_COPIED, num_lanes), generator=generator)
    ids_TB = torch.cat([symbols_NB, symbols_NB.new_full((gap, num_lanes), blank), torch.full_like(symbols_NB, cue)])
    return Batch(_one_hot(ids_TB, NUM_SYMBOLS + 2), symbols_NB)


def draw_adding(gap: int, num_lanes: int, generator: torch.Generator) -> Batch:
    """Numbers in [0, 1], the first and the last of gap + 2 marked: give their sum (Hochreiter & Schmidhuber 1997)."""
    values_TB = torch.rand((gap + 2, num_lanes), generator=generator)
    marks_TB = torch.zeros_like(values_TB)
    marks_TB[0] = marks_TB[-1] = 1.0
    return Batch(torch.stack([values_TB, marks_TB], dim=2), (values_TB[0] + values_TB[-1])[None])


def draw_brackets(gap: int, num_lanes: int, generator: torch.Generator) -> Batch:
    """Two open brackets of four kinds, `gap` steps of matched pairs (one blank if odd), then twice: which bracket
    closes?

    The second question has the first answer as its input, as when a language model writes.
    """
    blank, cue = 2 * NUM_BRACKETS, 2 * NUM_BRACKETS + 1
    opened_DB = torch.randint(NUM_BRACKETS, (BRACKET_DEPTH, num_lanes), generator=generator)
    kinds_PB = torch.randint(NUM_BRACKETS, (gap // 2, num_lanes), generator=generator)
    pairs_GB = torch.stack([kinds_PB, kinds_PB + NUM_BRACKETS], dim=1).flatten(0, 1)
    blanks = opened_DB.new_full((gap % 2, num_lanes), blank)
    answers_DB = opened_DB.flip(0)
    questions_DB = torch.cat([torch.full_like(answers_DB[:1], cue), answers_DB[:-1] + NUM_BRACKETS])
    return Batch(_one_hot(torch.cat([opened_DB, blanks, pairs_GB, questions_DB]), cue + 1), answers_DB)


def draw_agreement(gap: int, num_lanes: int, generator: torch.Generator) -> Batch:
    """A subject, `gap` words of adverbs and of prepositions with nouns of either number, then: is the verb plural?

    The nouns between are the attractors of Linzen et al. 2016: an answer by the last noun is right half of the time.
    """
    subject_B = torch.randint(2 * NUM_NOUNS, (num_lanes,), generator=generator)
    words_GB = _modifiers(gap, num_lanes, generator)
    verb = 2 * NUM_NOUNS + NUM_PREPOSITIONS + NUM_ADVERBS
    ids_TB = torch.cat([subject_B[None], words_GB, torch.full_like(subject_B, verb)[None]])
    return Batch(_one_hot(ids_TB, verb + 1), (subject_B >= NUM_NOUNS).long()[None])


TASKS = {
    task.name: task
    for task in (
        Task("copy", NUM_SYMBOLS + 2, NUM_SYMBOLS, 1 / NUM_SYMBOLS, draw_copy),
        Task("adding", 2, 1, 2 * ADDING_TOLERANCE - ADDING_TOLERANCE**2, draw_adding),
        Task("brackets", 2 * NUM_BRACKETS + 2, NUM_BRACKETS, 1 / NUM_BRACKETS, draw_brackets),
        Task("agreement", 2 * NUM_NOUNS + NUM_PREPOSITIONS + NUM_ADVERBS + 1, 2, 1 / 2, draw_agreement),
    )
}


def task_loss(outputs_NBY: torch.Tensor, targets_NB: torch.Tensor) -> torch.Tensor:
    """Returns the cross entropy of classes, or the mean square error of values."""
    if targets_NB.is_floating_point():
        return functional.mse_loss(outputs_NBY[..., 0], targets_NB)
    return functional.cross_entropy(outputs_NBY.flatten(0, 1), targets_NB.flatten())


def task_accuracy(outputs_NBY: torch.Tensor, targets_NB: torch.Tensor) -> float:
    """Returns the share of right answers: the likeliest class, or a value within ADDING_TOLERANCE."""
    if targets_NB.is_floating_point():
        is_right_NB = (outputs_NBY[..., 0] - targets_NB).abs() <= ADDING_TOLERANCE
    else:
        is_right_NB = outputs_NBY.argmax(dim=2) == targets_NB
    return float(is_right_NB.double().mean())


def _modifiers(gap: int, num_lanes: int, generator: torch.Generator) -> torch.Tensor:
    """Draws pairs of a preposition and a noun, or of two adverbs, evenly. An odd gap begins with an adverb."""
    first_preposition = 2 * NUM_NOUNS
    first_adverb = first_preposition + NUM_PREPOSITIONS

    def pick(first: int, count: int, num_rows: int) -> torch.Tensor:
        return first + torch.randint(count, (num_rows, num_lanes), generator=generator)

    num_pairs = gap // 2
    has_noun_PB = torch.randint(2, (num_pairs, num_lanes), generator=generator).bool()
    phrase = pick(first_preposition, NUM_PREPOSITIONS, num_pairs), pick(0, 2 * NUM_NOUNS, num_pairs)
    adverbs = pick(first_adverb, NUM_ADVERBS, num_pairs), pick(first_adverb, NUM_ADVERBS, num_pairs)
    pairs = [torch.where(has_noun_PB, word, adverb) for word, adverb in zip(phrase, adverbs, strict=True)]
    return torch.cat([pick(first_adverb, NUM_ADVERBS, gap % 2), torch.stack(pairs, dim=1).flatten(0, 1)])


def _one_hot(ids_TB: torch.Tensor, num_classes: int) -> torch.Tensor:
    return functional.one_hot(ids_TB, num_classes).float()
