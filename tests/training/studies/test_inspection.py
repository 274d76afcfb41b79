"""An inspection records gates over a text and ranks units that switch."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from carousel.bundle.tokenizer import TokenizerKind
from carousel_training.cells.registry import CELLS
from carousel_training.checkpoint import TrainedModel
from carousel_training.errors import CorpusError
from carousel_training.model import ModelConfig, RecurrentLM
from carousel_training.settings import VocabularySettings
from carousel_training.studies.inspection import Recording, activation, rank_units, record
from carousel_training.studies.inspection_report import plot_inspection, unit_table, visible
from carousel_training.vocabulary import learn_vocabulary

TEXT = "so (it) goes\n"


def build(cell: str, num_layers: int = 2) -> TrainedModel:
    torch.manual_seed(4)
    tokenizer = learn_vocabulary(TEXT, VocabularySettings(kind=TokenizerKind.CHARACTER))
    config = ModelConfig(tokenizer.size, cell, num_layers, 8, 6, tied=True, dropout=0.3)
    return TrainedModel(RecurrentLM(config), tokenizer, {})


def recording_of(**series: list[float]) -> Recording:
    """One unit per name, over as many letters as there are values."""
    length = len(next(iter(series.values())))
    tokens = tuple("abcdefghijklmnop"[:length])
    return Recording(tokens, (1.0,) * length, {name: np.array(values)[:, None] for name, values in series.items()})


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_a_recording_has_every_gate_at_every_token(cell: str) -> None:
    """Finite values [T,H], and a surprise that is the model's own loss on the text."""
    trained = build(cell)
    recording = record(trained, TEXT)
    assert "".join(recording.tokens) == TEXT
    assert recording.raw
    for raw_TH in recording.raw.values():
        assert raw_TH.shape == (len(TEXT), 8)
        assert np.isfinite(raw_TH).all()
    ids = trained.tokenizer.encode(TEXT)
    given_1T = torch.tensor([[trained.tokenizer.start_id, *ids[:-1]]])
    with torch.no_grad():
        nats, _ = trained.model.loss(given_1T, torch.tensor([ids]), trained.model.initial_state(1))
    assert np.mean(recording.nats) == pytest.approx(float(nats), abs=1e-4)


def test_cell_values_are_recorded_beside_the_gates() -> None:
    """An LSTM shows its four gates, its output and its memory, for both layers."""
    names = {f"{name}_{layer}" for name in ("i", "f", "g", "o", "h", "c") for layer in (0, 1)}
    assert set(record(build("lstm"), TEXT).raw) == names


def test_a_text_without_tokens_is_refused() -> None:
    """An empty text is refused, since there is nothing to show."""
    with pytest.raises(CorpusError, match="empty"):
        record(build("gru"), "")


def test_activations_lie_between_off_and_on() -> None:
    """Values of a sigmoid stay, those of a tanh are scaled, and sums pass a tanh."""
    np.testing.assert_allclose(activation(np.array([[0.0], [0.9]])), [[0.0], [0.9]])
    np.testing.assert_allclose(activation(np.array([[-1.0], [0.5]])), [[0.0], [0.75]])
    np.testing.assert_allclose(activation(np.array([[-90.0], [90.0]])), [[0.0], [1.0]])


def test_a_step_function_is_sharp_and_a_drift_is_not() -> None:
    """A unit that jumps ranks above one that slides through the middle; one that never switches is not ranked."""
    recording = recording_of(
        jump=[0.0, 0.0, 1.0, 1.0, 0.0, 0.0], slide=[0.0, 0.3, 0.5, 0.7, 0.9, 1.0], still=[0.9] * 6, grey=[0.5] * 6
    )
    units = rank_units(recording)
    assert [unit.label for unit in units] == ["jump[0]", "slide[0]"]
    assert units[0].sharpness == 1.0
    assert units[0].switches == (2, 4)
    assert units[1].decided == 0.5
    assert units[1].sharpness == pytest.approx(0.5 * 0.2)


def test_a_visit_to_the_middle_is_no_switch() -> None:
    """Only the other side counts, so a unit that wavers near a bound does not switch at every step."""
    assert not rank_units(recording_of(waver=[0.9, 0.7, 0.9, 0.5, 0.85, 0.3, 0.9]))
    (unit,) = rank_units(recording_of(through=[0.9, 0.5, 0.5, 0.1, 0.5, 0.1]))
    assert unit.switches == (3,)


def test_the_table_names_where_units_switch(tmp_path: Path) -> None:
    """On and off are told apart, white space can be seen, and brackets survive the console."""
    recording = replace(recording_of(f_0=[0.0, 1.0, 1.0, 0.0]), tokens=("x", "[", "y", "\n"))
    units = rank_units(recording)
    console = Console(file=io.StringIO(), width=120)
    console.print(unit_table(recording, units))
    (row,) = [line for line in console.file.getvalue().splitlines() if "f_0" in line]  # type: ignore[attr-defined]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[0] == "f_0[0]"
    assert cells[-2:] == ["[", "↵"]
    plot_inspection(recording, units, "a title", tmp_path / "i.png")
    assert (tmp_path / "i.png").read_bytes().startswith(b"\x89PNG")


def test_a_network_in_which_nothing_switches_can_be_drawn(tmp_path: Path) -> None:
    """The surprise and the means are there all the same, also where the text holds what plots take for formulas."""
    recording = replace(recording_of(f_0=[0.5, 0.5, 0.5]), tokens=("$x$", "\t", "$"))
    plot_inspection(recording, rank_units(recording), "a title", tmp_path / "i.png")
    assert (tmp_path / "i.png").read_bytes().startswith(b"\x89PNG")


def test_white_space_is_visible() -> None:
    """Each kind of white space has its own sign."""
    assert visible("a b\n\t") == "a␣b↵→"
