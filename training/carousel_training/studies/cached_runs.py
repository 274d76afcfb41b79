"""Training runs that are done once: each in a directory of its own, with its settings and result beside the checkpoint.

A run whose settings and text are those of the result that lies there is not run again. It compares nothing.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from carousel_training.display import Display
from carousel_training.errors import TrainingError
from carousel_training.fit import Outcome
from carousel_training.run import Run, start_run
from carousel_training.settings import Settings
from carousel_training.studies.results import load_figures, save_figures

RESULT_FILE = "result.json"


class StudyInterrupted(TrainingError):
    """Someone asked to stop; what was finished is kept, and the same command goes on."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """One run. `nats` is the last validation loss, None where the loss stopped being a number."""

    nats: float | None
    tokens: int
    seconds: float
    num_parameters: int
    state_bytes: int

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens / self.seconds if self.nats is not None and self.seconds > 0.0 else None


class CachedRuns:
    """Runs under `directory`, on the text with this digest. `num_runs` is only for the count that people see."""

    def __init__(
        self, directory: Path, corpus_digest: str, num_runs: int, console: Console, is_interrupted: Callable[[], bool]
    ) -> None:
        self.directory = directory
        self.num_runs = num_runs
        self._digest = corpus_digest
        self._console = console
        self._is_interrupted = is_interrupted
        self._num_done = 0

    def __repr__(self) -> str:
        return f"CachedRuns({self.directory}, {self._num_done} of {self.num_runs})"

    def result(self, name: str, settings: Settings, *, keeps_weights: bool) -> RunResult:
        """Known or trained now. Raises StudyInterrupted, and TrainingError for settings that cannot run at all."""
        self._num_done += 1
        title = f"[bold]\\[{self._num_done}/{self.num_runs}][/] {name}"
        path = self.directory / name / RESULT_FILE
        key = {"settings": settings.as_json(), "corpus_sha256": self._digest}
        known = load_figures(path)
        if known is not None and {part: known.get(part) for part in key} == key:
            self._console.print(f"{title}: done before", highlight=False)
            return RunResult(**known["result"])
        self._console.print(f"{title}: {_describe(settings)}", highlight=False)
        path.unlink(missing_ok=True)
        result = self._train(self.directory / name, settings)
        save_figures(path, {**key, "result": asdict(result)})
        if not keeps_weights:
            _drop_weights(self.directory / name)
        return result

    def _train(self, directory: Path, settings: Settings) -> RunResult:
        run = start_run(settings, directory, Display(self._console), is_fresh=True)
        try:
            outcome = run.execute(self._is_interrupted)
        except TrainingError as error:
            self._console.print(f"  [red]{escape(str(error))}[/]", soft_wrap=True, highlight=False)
            return _summarise(run, None)
        if outcome.is_interrupted:
            raise StudyInterrupted(f"stopped in {directory.name}; the same command goes on with what is not done yet")
        return _summarise(run, outcome)


def _summarise(run: Run, outcome: Outcome | None) -> RunResult:
    trainer = run.materials.trainer
    return RunResult(
        nats=None if outcome is None else outcome.progress.best_nats,
        tokens=trainer.num_tokens,
        seconds=0.0 if outcome is None else outcome.progress.elapsed_seconds,
        num_parameters=trainer.model.num_parameters,
        state_bytes=trainer.model.state_layout.num_bytes,
    )


def _describe(settings: Settings) -> str:
    rate = settings.optimizer.learning_rate
    return (
        f"{settings.model.num_layers} x {settings.model.hidden_size}, rate {'its own' if rate is None else f'{rate:g}'}"
    )


def _drop_weights(directory: Path) -> None:
    """The result and the log stay; checkpoints that nobody will look at go."""
    for pattern in ("*.safetensors", "best.json", "last.json"):
        for path in directory.glob(pattern):
            path.unlink()
