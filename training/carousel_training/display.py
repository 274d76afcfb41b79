"""The display of a run: a progress bar with loss, speed and remaining time, and a line per evaluation."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from carousel_training.fit import EvaluationReport, StepReport

SAMPLE_CHARACTERS = 200


class Display:
    """A context manager that shows reports. Without a terminal it prints lines only."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("step {task.fields[step]:,}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("[cyan]{task.fields[nats]}[/] {task.fields[unit]}"),
            TextColumn("[cyan]{task.fields[speed]}[/] tokens/s"),
            TextColumn("{task.fields[left]} left"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._bar.add_task("train", total=1.0, step=0, nats="-", unit="nats", speed="-", left="-")
        self._first: StepReport | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def report_steps(self, report: StepReport, tokens_per_second: float) -> None:
        """Moves the bar. Without a bar, prints a line for the run's first step only."""
        if report.step == 1 and not self._console.is_terminal:
            self._console.print(
                f"step 1: {report.nats:.4f} nats after {report.elapsed_seconds:.1f} s; the next line is a validation's",
                highlight=False,
                soft_wrap=True,
            )
        self._bar.update(
            self._task,
            completed=report.share,
            step=report.step,
            nats=f"{report.nats:.3f}",
            unit="nats (drawn words)" if report.is_sampled else "nats",
            speed=f"{tokens_per_second:,.0f}",
            left=self._time_left(report),
        )

    def report_evaluation(self, report: EvaluationReport) -> None:
        mark = " [green]best[/]" if report.is_best else ""
        line = f"[bold]{_duration(report.elapsed_seconds)}[/] step {report.step:,}: {report.quality.describe()}{mark}"
        self._console.print(line, soft_wrap=True)
        if report.sample:
            text = " ".join(report.sample.split())[:SAMPLE_CHARACTERS]
            self._console.print(f"  [dim]{escape(text)}[/]", highlight=False, soft_wrap=True)

    def _time_left(self, report: StepReport) -> str:
        """Estimates from the pace since the first report, so that a resumed run does not count the time before."""
        if self._first is None or report.share <= self._first.share:
            self._first = self._first or report
            return "-"
        pace = (report.elapsed_seconds - self._first.elapsed_seconds) / (report.share - self._first.share)
        return _duration(pace * (1.0 - report.share))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
