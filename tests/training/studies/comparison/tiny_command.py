"""`carousel-train` with one more plan, which takes seconds, so that a test can start it as a process."""

from tests.training.studies.comparison.conftest import TINY_PLAN

from carousel_training import cli
from carousel_training.studies import compare_command
from carousel_training.studies.comparison import study


def main() -> None:
    vars(compare_command).update(PLANS={"tiny": TINY_PLAN}, find_serving_speed=lambda: None)
    study.TIMING_SECONDS = 0.02
    cli.main()
