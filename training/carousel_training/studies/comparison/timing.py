"""How fast a cell trains and reads here, by short trainings beside the others. A plan in hours needs these figures."""

import time
from pathlib import Path

from carousel_training.settings import Settings
from carousel_training.studies.comparison.jobs import ReadingPlan
from carousel_training.studies.comparison.plans import Speeds
from carousel_training.studies.comparison.reading import Stretches
from carousel_training.studies.comparison.study_text import load_open_parts, load_tokenizer
from carousel_training.studies.comparison.training import build_trainer

FIRST_STEPS = 3  # they are slower than the steps that follow
READ_TOKENS = 8192


def measure_speed(settings: Settings, reading: ReadingPlan, text_directory: Path, seconds: float) -> Speeds:
    """Measures in seconds of this process's core, so that the machine's other work now is not taken to last."""
    ids_N = load_open_parts(text_directory)[1]
    started = time.process_time()
    trainer = build_trainer(settings, 0.0, text_directory)
    for _ in range(FIRST_STEPS):
        trainer.advance(0.0, 1.0)
    setup = time.process_time() - started
    first, started, wall_started = trainer.num_tokens, time.process_time(), time.perf_counter()
    while time.process_time() - started < seconds:
        trainer.advance(0.0, 1.0)
    elapsed, wall_elapsed = time.process_time() - started, time.perf_counter() - wall_started
    start_id = load_tokenizer(text_directory).start_id
    part = Stretches(ids_N.to(trainer.model.device), start_id, reading, READ_TOKENS)
    started = time.process_time()
    part.read(trainer.model, trainer.compute)
    read_seconds = time.process_time() - started
    return Speeds(
        training=(trainer.num_tokens - first) / elapsed,
        reading=part.num_tokens / max(read_seconds, 1e-6),
        setup=setup,
        core_share=min(elapsed / wall_elapsed, 1.0),
    )
