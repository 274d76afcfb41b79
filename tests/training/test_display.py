"""The display prints the progress of a run."""

import io

from rich.console import Console

from carousel_training.display import Display
from carousel_training.evaluate import Quality
from carousel_training.fit import EvaluationReport, StepReport


def step_report(step: int, share: float, seconds: float, *, is_sampled: bool = False) -> StepReport:
    return StepReport(step, step * 100, 2.5, 1.0, 0.01, seconds, share, is_sampled)


def test_an_evaluation_is_one_line_and_its_sample_is_shown_as_it_is() -> None:
    """An evaluation shows all units, and text that looks like markup stays text."""
    screen = io.StringIO()
    with Display(Console(file=screen, width=60)) as display:
        quality = Quality.of(1.0, 0.5)
        display.report_evaluation(EvaluationReport(1200, 9, quality, True, "a [bold]word[/]\n and [/more]", 3671.0))
    first, second = screen.getvalue().rstrip().splitlines()
    assert first == "1:01:11 step 1,200: 1.0000 nats, 1.4427 bits/token, perplexity 2.72, 0.7213 bits/byte best"
    assert second.strip() == "a [bold]word[/] and [/more]"


def test_the_bar_shows_loss_speed_and_time_left() -> None:
    """After a quarter of the run in ten seconds, the remaining half takes twenty."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None)
    with Display(console) as display:
        display.report_steps(step_report(10, 0.25, 100.0), 50.0)
        display.report_steps(step_report(20, 0.50, 110.0), 12345.0)
    shown = screen.getvalue()
    assert "step 20" in shown
    assert "2.500 nats" in shown
    assert "12,345 tokens/s" in shown
    assert "0:20 left" in shown
    assert "drawn words" not in shown


def test_the_bar_says_when_nats_are_an_estimate() -> None:
    """Nats against sampled words are too low. The bar does not show them as a validation's."""
    screen = io.StringIO()
    with Display(Console(file=screen, force_terminal=True, width=140, color_system=None)) as display:
        display.report_steps(step_report(10, 0.25, 100.0, is_sampled=True), 50.0)
    assert "2.500 nats (drawn words)" in screen.getvalue()


def test_where_there_is_no_bar_the_first_step_is_a_line() -> None:
    """The first step shows that training runs. Later steps print nothing, and a terminal has its bar."""
    screen = io.StringIO()
    with Display(Console(file=screen, width=200)) as display:
        display.report_steps(step_report(1, 0.01, 1.25), 50.0)
        display.report_steps(step_report(2, 0.02, 2.5), 50.0)
    assert screen.getvalue().splitlines() == ["step 1: 2.5000 nats after 1.2 s; the next line is a validation's"]
    screen = io.StringIO()
    with Display(Console(file=screen, force_terminal=True, width=120, color_system=None)) as display:
        display.report_steps(step_report(1, 0.01, 1.25), 50.0)
    assert "the next line" not in screen.getvalue()
    assert "2.500 nats" in screen.getvalue()
