"""The loss curve is a picture for any log."""

from pathlib import Path
from typing import Any

from carousel_training.curve import plot_curve


def records(num_steps: int, num_evaluations: int) -> list[dict[str, Any]]:
    steps = [{"kind": "train", "tokens": n, "nats": 5 - n / 9, "learning_rate": 0.1} for n in range(num_steps)]
    return steps + [
        {"kind": "evaluation", "tokens": n, "nats": 4.0, "perplexity": 54.6, "bits_per_byte": None}
        for n in range(num_evaluations)
    ]


def test_a_curve_is_drawn_from_whatever_there_is(tmp_path: Path) -> None:
    """A long log, one line, evaluations alone or nothing at all give a PNG, and more data another picture."""
    pictures = set()
    for shape in ((9, 3), (1, 1), (0, 1), (1, 0), (0, 0)):
        plot_curve(records(*shape), "title", tmp_path / "loss.png")
        pictures.add((tmp_path / "loss.png").read_bytes())
    assert len(pictures) == 5
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert list(tmp_path.iterdir()) == [tmp_path / "loss.png"]
