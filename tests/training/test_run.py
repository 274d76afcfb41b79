"""A resumed run is bit-identical to an uninterrupted one, and refuses changed text and vocabulary."""

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from carousel.bundle.chat import ChatFormat
from carousel_training import precision
from carousel_training.checkpoint import BEST, LAST, Checkpoint, load_checkpoint, rebuild_model
from carousel_training.display import Display
from carousel_training.errors import CheckpointError, CorpusError, TrainingError
from carousel_training.run import Run, resume_run, start_run
from carousel_training.settings import BudgetSettings, Settings

pytestmark = pytest.mark.slow

TIMES = ("seconds", "tokens_per_second", "wall_seconds", "elapsed_seconds")


def quiet() -> Display:
    return Display(Console(file=io.StringIO()))


def stop_after(num_steps: int) -> Callable[[], bool]:
    """Returns a function that is true at its call number `num_steps`. The loop calls it once a step."""
    asked = iter(range(1, 10**9))
    return lambda: next(asked) == num_steps


def never() -> bool:
    return False


def log_without_times(run: Run) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key not in TIMES} for record in run.journal.records()]


def disturb_generators() -> None:
    """Changes all generators, as another process's history would."""
    torch.manual_seed(999)
    random.seed(999)
    np.random.seed(999)


def without_times(facts: Any) -> Any:
    """Returns the facts that do not depend on the clock or on the length of printed times."""
    dropped = (*TIMES, "journal_bytes", "sha256", "tensors")
    if isinstance(facts, dict):
        return {key: without_times(value) for key, value in facts.items() if key not in dropped}
    return facts


def assert_equal(found: Checkpoint, expected: Checkpoint) -> None:
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert torch.equal(found.tensors[name], tensor), name
    assert without_times(found.facts) == without_times(expected.facts)


@pytest.mark.parametrize(("cell", "num_negatives"), [("lstm", None), ("gru", None), ("lstm", 9)])
def test_interrupted_and_resumed_equals_uninterrupted(
    tiny_facts: dict[str, Any], tmp_path: Path, cell: str, num_negatives: int | None
) -> None:
    """Weights, optimiser, generators, carried state, counters, best checkpoint and log are equal bit for bit, wherever
    the run stops: before the first log line, between evaluations, right after one, in a later epoch, twice in a row."""
    tiny_facts["model"]["cell"] = cell
    tiny_facts["output"] = {"num_negatives": num_negatives}
    settings = Settings.parse(tiny_facts)
    whole = start_run(settings, tmp_path / "whole", quiet())
    whole.execute(never)
    run = start_run(settings, tmp_path / "parts", quiet())
    for num_steps in (3, 1, 36, 45, 30):
        assert run.execute(stop_after(num_steps)).is_interrupted
        disturb_generators()
        run = resume_run(tmp_path / "parts", quiet())
    assert run.materials.trainer.step == 3 + 1 + 36 + 45 + 30
    assert not run.execute(never).is_interrupted
    assert run.materials.trainer.step == 150 > 2 * run.materials.trainer.batches.segments_per_epoch
    for name in (LAST, BEST):
        assert_equal(load_checkpoint(tmp_path / "parts", name), load_checkpoint(tmp_path / "whole", name))
    assert log_without_times(run) == log_without_times(whole)


def test_a_crash_after_the_last_checkpoint_repeats_what_was_lost(tiny_settings: Settings, tmp_path: Path) -> None:
    """A run that is killed between checkpoints continues from the last one, and the log has no line twice."""

    def die() -> bool:
        if run.materials.trainer.step == 70:
            raise MemoryError
        return False

    whole = start_run(tiny_settings, tmp_path / "whole", quiet())
    whole.execute(never)
    run = start_run(tiny_settings, tmp_path / "parts", quiet())
    with pytest.raises(MemoryError):
        run.execute(die)
    resumed = resume_run(tmp_path / "parts", quiet())
    assert resumed.materials.trainer.step == 40
    resumed.execute(never)
    assert_equal(load_checkpoint(tmp_path / "parts", LAST), load_checkpoint(tmp_path / "whole", LAST))
    assert log_without_times(resumed) == log_without_times(whole)


def test_equal_seeds_train_equal_models(tiny_facts: dict[str, Any], tmp_path: Path) -> None:
    """A run that is bounded by steps is a function of its settings, and another seed gives another run."""
    tiny_facts["budget"] = {"max_steps": 12}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        disturb_generators()
        start_run(Settings.parse(tiny_facts | {"seed": seed}), tmp_path / name, quiet()).execute(never)
    weights = [load_checkpoint(tmp_path / name, LAST).tensors["model.output_bias"] for name in "abc"]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_early_stopping_counts_over_interruptions(tiny_facts: dict[str, Any], tmp_path: Path) -> None:
    """A run that stops early stops at the same step after an interruption."""
    tiny_facts["optimizer"] = {"learning_rate": 1e-9}
    tiny_facts["budget"] = {"max_steps": 10_000, "patience": 2}
    tiny_facts["evaluation"] |= {"every_steps": 5}
    settings = Settings.parse(tiny_facts)
    whole = start_run(settings, tmp_path / "whole", quiet())
    whole.execute(never)
    start_run(settings, tmp_path / "parts", quiet()).execute(stop_after(7))
    parts = resume_run(tmp_path / "parts", quiet())
    parts.execute(never)
    assert parts.materials.trainer.step == whole.materials.trainer.step < 10_000


def test_a_run_leaves_what_the_next_tools_need(tiny_facts: dict[str, Any], tmp_path: Path) -> None:
    """A run leaves two checkpoints, tokenizer, log and picture. Its facts contain no paths of this machine."""
    tiny_facts["budget"] = {"max_steps": 80}
    run = start_run(Settings.parse(tiny_facts), tmp_path / "run", quiet())
    run.execute(never)
    names = {path.name.split("-")[0] for path in (tmp_path / "run").iterdir()}
    assert names == {"best", "best.json", "last", "last.json", "log.jsonl", "loss.png", "tokenizer.json"}
    assert (tmp_path / "run" / "loss.png").read_bytes().startswith(b"\x89PNG")
    kinds = [record["kind"] for record in run.journal.records()]
    assert (kinds.count("train"), kinds.count("evaluation")) == (3 + 11, 2)  # steps 1, 2 and 5 are logged too
    facts = load_checkpoint(tmp_path / "run", BEST).facts
    training = facts["training"]
    assert training["tokens_seen"] == training["steps"] * 4 * 16
    assert training["corpus"] == "verse.txt"
    assert training["validation"]["nats_per_token"] == facts["progress"]["best_nats"]
    assert str(tmp_path) not in json.dumps(training)


def test_the_best_weights_read_the_test_text(tiny_facts: dict[str, Any], tmp_path: Path) -> None:
    """A run with a test text ends with its quality on it."""
    tiny_facts["budget"] = {"max_steps": 10}
    run = start_run(Settings.parse(tiny_facts), tmp_path / "without", quiet())
    run.execute(never)
    assert run.test_quality() is None
    tiny_facts["corpus"] |= {"test_fraction": 0.1}
    run = start_run(Settings.parse(tiny_facts), tmp_path / "with", quiet())
    run.execute(never)
    quality = run.test_quality()
    assert quality is not None
    assert quality.perplexity < 40


def test_an_earlier_run_is_not_overwritten_by_accident(tiny_facts: dict[str, Any], tmp_path: Path) -> None:
    """A directory with a run is refused with both solutions, and --fresh replaces only the run."""
    tiny_facts["budget"] = {"max_steps": 2}
    settings = Settings.parse(tiny_facts)
    start_run(settings, tmp_path / "run", quiet()).execute(never)
    (tmp_path / "run" / "notes.md").write_text("mine")
    with pytest.raises(TrainingError, match="holds a run already: --resume continues it, --fresh replaces it"):
        start_run(settings, tmp_path / "run", quiet())
    run = start_run(settings, tmp_path / "run", quiet(), is_fresh=True)
    assert run.journal.records() == []
    assert not (tmp_path / "run" / "last.json").exists()
    assert (tmp_path / "run" / "notes.md").read_text() == "mine"


def test_a_run_keeps_the_precision_that_it_began_with(
    tiny_facts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` on a processor without bfloat16 stays float32 when the run resumes on one with it."""
    tiny_facts["compute"] = {"device": "cpu"}
    monkeypatch.setattr(precision, "_has_native_bfloat16", lambda: False)
    start_run(Settings.parse(tiny_facts), tmp_path / "run", quiet()).execute(stop_after(2))
    monkeypatch.setattr(precision, "_has_native_bfloat16", lambda: True)
    run = resume_run(tmp_path / "run", quiet())
    assert run.materials.settings.compute.precision == "float32"
    assert not run.materials.trainer.compute.uses_bfloat16


def test_a_run_begins_with_the_frequencies_of_its_text(tiny_settings: Settings, tmp_path: Path) -> None:
    """The output bias of a new run is the logarithm of each token's share of the training text."""
    materials = start_run(tiny_settings, tmp_path / "run", quiet()).materials
    letters = materials.corpus.train
    for letter in sorted(set(letters)):
        (token,) = materials.tokenizer.encode(letter)
        share = materials.trainer.model.output_bias[token].exp().item()
        assert share == pytest.approx(letters.count(letter) / len(letters), rel=1e-2)


@pytest.mark.parametrize("num_negatives", [None, 9])
def test_the_log_says_whether_training_nats_are_an_estimate(
    tiny_facts: dict[str, Any], tmp_path: Path, num_negatives: int | None
) -> None:
    """Nats against sampled words are too low, and the log marks them."""
    tiny_facts |= {"budget": {"max_steps": 14}, "output": {"num_negatives": num_negatives}}
    run = start_run(Settings.parse(tiny_facts), tmp_path / "run", quiet())
    run.execute(never)
    records = [record for record in run.journal.records() if record["kind"] == "train"]
    assert [record["step"] for record in records] == [1, 2, 5, 7, 14]
    assert {record["is_sampled"] for record in records} == {num_negatives is not None}


def test_a_run_says_how_much_of_its_validation_text_it_was_trained_on(
    tiny_facts: dict[str, Any], tmp_path: Path, verse_file: Path
) -> None:
    """The facts of the model hold the share, which is 1 for a text of equal lines."""
    tiny_facts["budget"] = {"max_steps": 2}
    start_run(Settings.parse(tiny_facts), tmp_path / "run", quiet()).execute(never)
    share = load_checkpoint(tmp_path / "run", LAST).facts["training"]["corpus_share_leaked"]
    assert share == 1.0


def test_a_corpus_that_changed_is_refused(tiny_settings: Settings, tmp_path: Path, verse_file: Path) -> None:
    """A run does not resume on other text."""
    start_run(tiny_settings, tmp_path / "run", quiet()).execute(stop_after(2))
    verse_file.write_text(verse_file.read_text() + "one line more\n")
    with pytest.raises(CheckpointError, match="verse.txt is not the text"):
        resume_run(tmp_path / "run", quiet())


def test_a_vocabulary_that_does_not_fit_is_refused(tiny_settings: Settings, tmp_path: Path) -> None:
    """A tokenizer of another run in the directory is an error with its path."""
    start_run(tiny_settings, tmp_path / "run", quiet()).execute(stop_after(2))
    tokenizer = tmp_path / "run" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"w"', '"W"'))
    with pytest.raises(CheckpointError, match="tokenizer.json is not the vocabulary of this checkpoint"):
        resume_run(tmp_path / "run", quiet())


def test_a_new_budget_replaces_the_old_one(tiny_settings: Settings, tmp_path: Path) -> None:
    """A finished run can be given more steps."""
    start_run(tiny_settings, tmp_path / "run", quiet()).execute(stop_after(2))
    run = resume_run(tmp_path / "run", quiet(), BudgetSettings(max_steps=5))
    run.execute(never)
    assert run.materials.trainer.step == 5


def test_a_text_too_short_to_train_on_leaves_no_directory(tiny_facts: dict[str, Any], tmp_path: Path) -> None:
    """The error comes before anything is written."""
    tiny_facts["batch"] = {"num_lanes": 1000, "segment": 1000}
    with pytest.raises(CorpusError, match="the training text is too short"):
        start_run(Settings.parse(tiny_facts), tmp_path / "run", quiet())
    assert not (tmp_path / "run").exists()


def test_a_chat_template_goes_into_the_checkpoints(tiny_facts: dict[str, Any], tmp_path: Path) -> None:
    """An export finds it there, and so does a run that goes on; the facts of the training do not repeat it."""
    chat = ChatFormat("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", ("\n",))
    settings = Settings.parse(tiny_facts | {"chat": chat.as_json()})
    start_run(settings, tmp_path / "run", quiet()).execute(stop_after(2))
    run = resume_run(tmp_path / "run", quiet())
    assert run.materials.settings.chat.format == chat
    run.execute(stop_after(2))
    last = load_checkpoint(tmp_path / "run", LAST)
    assert rebuild_model(last).chat == chat
    assert "chat" not in last.facts["training"]["settings"]
