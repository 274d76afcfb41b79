"""The analysis follows from the figures: tiers, noise floor, equal tokens and seconds, lanes. A diverged cell is in no
tier."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from carousel_training.studies.comparison.analysis import analyse
from carousel_training.studies.comparison.page import page_text, write_page

NUM_BLOCKS, NUM_LANES = 40, 4


def make_cell(name: str, nats: float, offsets: tuple[float | None, ...] = (-0.01, 0.0, 0.01), **more: Any) -> Any:
    """Makes a cell with marks at 100 and 400 tokens, the second 0.5 nats better. `None`: it diverged after the
    first."""
    runs = [make_run(seed, nats, offset, more.get("speed", 1.0)) for seed, offset in enumerate(offsets)]
    return {
        "cell": more.get("cell", name),
        "name": name,
        "hidden_size": 8,
        "num_parameters": 1000,
        "state_bytes": 64,
        "has_gate": True,
        "trial": {"learning_rate": 0.01, "warmup_share": 0.1, "gate_shift": 0.5, "dropout": 0.1, "clip_norm": 1.0},
        "search": [{"trial": {}, "nats": [value]} for value in (nats + 1.0, None, nats + 0.5)],
        "runs": runs,
        "blocks": [] if None in offsets else [10.0 * nats + 0.1 * (block % 3) for block in range(NUM_BLOCKS)],
        "serving": "not measured",
    }


def make_run(seed: int, nats: float, offset: float | None, speed: float) -> Any:
    marks = [{"tokens": 100, "core_seconds": 1.0 / speed, "nats": nats + 0.6, "test_nats": nats + 0.5}]
    if offset is not None:
        marks.append({"tokens": 400, "core_seconds": 4.0 / speed, "nats": nats, "test_nats": nats + offset})
    lanes = [] if offset is None else [nats + 0.1 * lane for lane in range(NUM_LANES)]
    return {
        "seed": seed,
        "nats": None if offset is None else nats + 0.1,
        "test_nats": None if offset is None else nats + offset,
        "tokens": 400,
        "core_seconds": 4.0 / speed,
        "wall_seconds": 5.0,
        "marks": marks,
        "test_lanes": lanes,
    }


def make_study(cells: list[Any], twin: Any = None) -> Any:
    return {
        "version": 1,
        "num_parameters": 1000,
        "plan": {
            "name": "hour",
            "num_trials": 3,
            "num_seeds": 3,
            "space": {"dropout": [0.0, 0.3]},
            "reading": {"num_lanes": NUM_LANES},
            "search_tokens": [[3, 50]],
            "mark_tokens": [100, 400],
        },
        "text": {
            "source": "tales",
            "raw_sha256": "0" * 64,
            "sha256": "1" * 64,
            "is_deduplicated": True,
            "vocabulary_size": 50,
            "vocabulary": {"kind": "character"},
            "num_characters": {"train": 10_000},
            "share_repeated": {"valid": 0.01, "test": 0.02},
        },
        "machine": {"processor": "p", "torch": "t", "python": "3", "trainings_side_by_side": 2},
        "wall_seconds": 60.0,
        "block_tokens": [10] * NUM_BLOCKS,
        "cells": cells,
        "twin": twin,
    }


def test_tiers_follow_from_the_differences() -> None:
    """A difference of 0.005 does not tell two cells apart, one of 0.5 does."""
    found = analyse(make_study([make_cell("c", 2.0), make_cell("a", 1.5), make_cell("b", 1.505)]))
    assert found["tiers"] == [["a", "b"], ["c"]]
    told = {(pair["better"], pair["worse"]): pair["is_told_apart"] for pair in found["pairs"]}
    assert told == {("a", "b"): False, ("a", "c"): True, ("b", "c"): True}
    assert found["finals"]["a"]["mean"] == pytest.approx(1.5)
    assert found["noise_floor"] is None


def test_the_twin_s_distance_is_the_noise_floor() -> None:
    """With a twin 0.3 away, cells that differ by 0.2 are not told apart. The twin is in no tier."""
    cells = [make_cell("lstm", 1.5), make_cell("gru", 1.7)]
    assert analyse(make_study(cells))["tiers"] == [["lstm"], ["gru"]]
    found = analyse(make_study(cells, make_cell("lstm-again", 1.8, cell="lstm")))
    assert found["noise_floor"]["of"] == "lstm"
    assert found["noise_floor"]["floor"] > 0.3
    assert found["tiers"] == [["lstm", "gru"]]


def test_a_cell_that_diverged_is_in_no_tier() -> None:
    """A diverged cell is in no tier, even with good seeds. Its earlier marks stay in the curves."""
    found = analyse(make_study([make_cell("a", 1.5), make_cell("lost", 1.0, (0.0, None, 0.0))]))
    assert found["diverged"] == ["lost"]
    assert found["tiers"] == [["a"]]
    assert [point and point["tokens"] for point in found["equal_tokens"]["lost"]] == [100, None]


def test_one_seed_gives_no_tiers() -> None:
    """One seed gives infinite intervals, which are null in JSON, and no tiers."""
    found = analyse(make_study([make_cell("a", 1.5, (0.0,)), make_cell("b", 2.5, (0.0,))]))
    assert found["tiers"] == []
    assert found["finals"]["a"]["half_width"] is None


def test_a_faster_cell_has_its_loss_sooner() -> None:
    """At the median of the seconds, which is neither cell's, each loss is interpolated."""
    found = analyse(make_study([make_cell("slow", 1.5), make_cell("fast", 1.5, speed=2.0)]))["equal_seconds"]
    assert found["seconds"] == [0.75, 3.0]
    assert found["nats"]["slow"] == [None, pytest.approx(2.0 - 0.5 * math.log(3.0) / math.log(4.0))]
    assert found["nats"]["fast"][1] is None
    assert found["nats"]["fast"][0] == pytest.approx(2.0 - 0.5 * math.log(1.5) / math.log(4.0))


def test_a_trial_that_diverged_is_worth_even_guessing() -> None:
    """A diverged trial counts as the logarithm of the vocabulary."""
    curve = analyse(make_study([make_cell("a", 1.5)]))["best_of"]["a"]
    assert curve[0] == pytest.approx((2.5 + math.log(50) + 2.0) / 3)
    assert curve[-1] > 2.0


def test_a_stuck_lane_is_named_and_a_hard_one_is_not() -> None:
    """Lane 3 is the worst for all cells; the stuck one is lane 1 of seed 2."""
    cells = [make_cell("a", 1.5), make_cell("b", 1.6)]
    assert max(abs(lanes["most_excess"]) for lanes in analyse(make_study(cells))["lanes"].values()) < 0.02
    cells[0]["runs"][2]["test_lanes"][1] = 1.7
    found = analyse(make_study(cells))["lanes"]["a"]
    assert (found["excess_seed"], found["excess_lane"]) == (2, 1)
    assert found["most_excess"] == pytest.approx(0.1, abs=0.02)
    assert (found["best"], found["worst"]) == (1.5, pytest.approx(1.8))


def test_a_page_says_what_happened(tmp_path: Path) -> None:
    """The page names the noise floor, the diverged cell, and a text that is not de-duplicated."""
    twin = make_cell("lstm-again", 1.51, cell="lstm")
    study = make_study([make_cell("lstm", 1.5), make_cell("gru", 2.0), make_cell("lost", 1.0, (None,))], twin)
    study["text"]["is_deduplicated"] = False
    write_page(study, tmp_path)
    text = (tmp_path / "index.md").read_text()
    for words in ("1. lstm\n2. gru", "noise floor", "in no tier: lost", "**Not de-duplicated**", "What may not be"):
        assert words in text
    saved = json.loads((tmp_path / "study.json").read_text())
    assert page_text(saved, []).count("](") == 1


def test_a_page_of_nothing_but_divergence_can_be_written(tmp_path: Path) -> None:
    """If all cells diverged, the page has its tables and no pictures."""
    write_page(make_study([make_cell("lost", 1.0, (None, None))]), tmp_path)
    assert "diverged" in (tmp_path / "index.md").read_text()
    assert not (tmp_path / "tiers.png").exists()
