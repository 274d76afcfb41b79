"""Turns a prediction into the rows that a user chooses from. Pure."""

from dataclasses import dataclass

from carousel.cli.texts import show
from carousel.client import Prediction

NUM_ASKED = 16  # words to request, however few are shown: they represent all words with this prefix
_WHOLE_SHARE = 0.5  # of the words with this prefix; above it the typed letters are a whole word
_LEAST_SHARE = 0.01  # of the likeliest word's probability; below it the letters are hardly a word


@dataclass(frozen=True, slots=True)
class Suggestion:
    """`text` replaces the unfinished word when accepted; `label` is shown."""

    label: str
    text: str
    probability: float


def choose_suggestions(prediction: Prediction, prefix: str, num_rows: int) -> tuple[Suggestion, ...]:
    """Returns the words, each once; or the tokens, when there is no word.

    Once letters of a word are typed, a word's probability is its share among the words found: the server's value
    includes how unlikely those letters were. There may be fewer than `num_rows` then, because not everything that can
    be spelled is a word.
    """
    is_begun = bool(prefix.strip())
    whole = sum(word.probability for word in prediction.words) if is_begun else 1.0
    rows: dict[str, Suggestion] = {}
    for word in prediction.words:
        label = show(word.text.strip())
        rows.setdefault(label, Suggestion(label, word.text, word.probability / whole if whole else 0.0))
    if not rows:
        tokens = prediction.candidates
        return tuple(Suggestion(repr(token.text), token.text, token.probability) for token in tokens[:num_rows])
    chosen = tuple(rows.values())[:num_rows]
    least = chosen[0].probability * _LEAST_SHARE if is_begun else 0.0
    return tuple(row for row in chosen if row.probability >= least)


def is_whole_word(rows: tuple[Suggestion, ...], prefix: str) -> bool:
    """Returns whether the typed letters are already the likeliest word, so that the words after it are more useful."""
    typed = show(prefix.strip())
    return bool(typed and rows) and rows[0].label == typed and rows[0].probability >= _WHOLE_SHARE


def follow_word(rows: tuple[Suggestion, ...], prefix: str) -> tuple[Suggestion, ...]:
    """Returns words that follow `prefix`, as rows that keep it when accepted."""
    return tuple(Suggestion(row.label, f"{prefix} {row.text.strip()}", row.probability) for row in rows)
