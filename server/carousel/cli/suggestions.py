"""From a prediction to the rows that a user chooses from. Pure."""

from dataclasses import dataclass

from carousel.cli.texts import show
from carousel.client import Prediction

NUM_ASKED = 16  # words to ask for, however few are shown: they stand for all words that begin like this


@dataclass(frozen=True, slots=True)
class Suggestion:
    """`text` is what accepting it writes, `label` what is shown."""

    label: str
    text: str
    probability: float


def choose_suggestions(prediction: Prediction, prefix: str, num_rows: int) -> tuple[Suggestion, ...]:
    """The words, each once; the tokens, when there is no word to be had.

    Once letters of a word are typed, its probability is its share among the words found: the server's counts in how
    unlikely those letters were.
    """
    whole = sum(word.probability for word in prediction.words) if prefix.strip() else 1.0
    rows: dict[str, Suggestion] = {}
    for word in prediction.words:
        label = show(word.text.strip())
        rows.setdefault(label, Suggestion(label, word.text, word.probability / whole if whole else 0.0))
    if not rows:
        tokens = prediction.candidates
        return tuple(Suggestion(repr(token.text), token.text, token.probability) for token in tokens[:num_rows])
    return tuple(rows.values())[:num_rows]
