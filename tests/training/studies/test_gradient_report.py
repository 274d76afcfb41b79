"""Tables and the picture of a gradient study."""

import io
from pathlib import Path

from rich.console import Console

from carousel_training.studies.gradient_report import clipping_table, plot_gradients, reach_table, variant_table
from carousel_training.studies.gradients import GradientResult, Reach, ShortTraining

FADING = Reach((1.0, 0.5, 1e-30, 0.0), (1.0, 0.1, 0.0, 0.0))
ALONE = Reach((1.0, 0.0, 0.0, 0.0), (1.0, 1.0, 0.0, 0.0))
TRAINING = ShortTraining((0.5, 2.0, 3.0), (0.01, 0.02, 0.5), 1.25)
RESULTS = [GradientResult("lstm", FADING, FADING, FADING, TRAINING, TRAINING),
           GradientResult("tdnn", ALONE, ALONE, ALONE, TRAINING, TRAINING)]  # fmt: skip


def printed(*tables: object) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(*tables)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_tables_say_what_is_left_and_what_was_cut() -> None:
    """Distances are columns; two of three steps were above the bound."""
    assert "5.0e-01" in printed(reach_table(RESULTS, [1, 2]))
    clipped = printed(clipping_table(RESULTS, 1.0))
    assert "67 %" in clipped
    assert "3.00" in clipped
    variants = printed(variant_table({2.0: FADING}, {1.5: ALONE}, [1]))
    assert "lstm, forget bias 2" in variants
    assert "elman, recurrent matrix x 1.5" in variants


def test_a_gradient_that_is_gone_can_be_drawn(tmp_path: Path) -> None:
    """Zeros have no place on a logarithmic axis; the picture is made all the same, without a warning."""
    plot_gradients(RESULTS, ({1.0: FADING}, {0.5: FADING}), 1.0, tmp_path / "g.png")
    assert (tmp_path / "g.png").read_bytes().startswith(b"\x89PNG")
