"""Every cell is on the page about the cells, with the bytes that its state has."""

import re
from pathlib import Path
from typing import get_args

from carousel.engine.columns import Columns
from carousel.settings import Settings
from carousel.state.codec import SnapshotCodec
from carousel_training.cells.registry import CELLS, build_stack
from carousel_training.cells.stack import RecurrentStack
from carousel_training.model import ModelConfig
from carousel_training.settings import CELLS_WITH_HEADS, CellName, ModelSettings

PAGE = (Path(__file__).parents[3] / "docs" / "cells.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([a-z0-9-]+)` \|.*\| ([0-9,]+) \|$", re.MULTILINE)


def build(cell: str, **sizes: int) -> RecurrentStack:
    """Builds a cell at the default sizes, or at others."""
    settings = ModelSettings(cell=cell, **sizes)
    return build_stack(cell, "plain", ModelConfig.from_settings(settings, 256).stack_shape())


def sealed_bytes(cell: str, **sizes: int) -> int:
    """Returns the most that a snapshot takes; a seal adds less than a hundred bytes."""
    stack = build(cell, **sizes)
    codec = SnapshotCodec(stack.state_layout, "ab" * 32, stack.shape.hidden_size)
    return codec.max_bytes(Settings().penalty_window) + 100


def test_the_page_has_every_cells_bytes() -> None:
    """The page has one row for each cell and no others."""
    stated = {cell: int(number.replace(",", "")) for cell, number in ROW.findall(PAGE)}
    assert stated == {cell: build(cell).state_layout.num_bytes for cell in CELLS}


def test_the_settings_name_the_same_cells() -> None:
    """The settings accept exactly the cells that exist; those with heads refuse a width that is no multiple."""
    assert set(get_args(CellName)) == set(CELLS)
    assert set(CELLS_WITH_HEADS) <= set(CELLS)


def test_a_sealed_state_fits_a_message() -> None:
    """This holds for every cell at the default sizes, and for as many layers as the page says."""
    limit = Settings().max_message_bytes
    assert all(sealed_bytes(cell) < limit for cell in CELLS)
    for hidden_size, num_heads, num_layers in ((256, 4, 31), (512, 4, 7), (1024, 4, 1), (1024, 8, 3)):
        sizes = {"hidden_size": hidden_size, "num_heads": num_heads}
        assert sealed_bytes("mlstm", num_layers=num_layers, **sizes) < limit
        assert sealed_bytes("mlstm", num_layers=num_layers + 1, **sizes) > limit


def test_the_page_says_how_many_sessions_are_held() -> None:
    """The number is for the 64 MiB that streams have for them."""
    for cell, number in (("mlstm", 195), ("lstm", 2184)):
        layout = build(cell).state_layout
        assert Columns(layout, 256, 10, 64 * 2**20).num_slots == number
    assert "for 195 sessions instead of 2,184" in PAGE
