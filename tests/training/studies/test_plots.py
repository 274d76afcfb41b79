"""All pictures have the same style."""

from pathlib import Path

from carousel_training.cells.registry import CELLS
from carousel_training.studies.plots import line_styles, new_figure, save_figure, tidy


def test_no_two_cells_look_alike() -> None:
    """Every cell has a line of its own."""
    styles = line_styles(list(CELLS))
    assert len({(str(style["color"]), str(style["linestyle"])) for style in styles.values()}) == len(CELLS)


def test_a_picture_appears_whole(tmp_path: Path) -> None:
    """The file is a PNG, and nothing else stays in the directory."""
    figure = new_figure(3.0, 2.0)
    tidy(figure.subplots(), "a title", grid="both")
    save_figure(figure, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]
