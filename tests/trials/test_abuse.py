"""An abuse is compared with the load around it, so that a slow machine does not count as a slow server."""

from pathlib import Path

import pytest
from trials.abuse import Felt, slow_down
from trials.process_samples import waited_seconds

pytestmark = pytest.mark.slow


def felt(p99: float) -> Felt:
    return Felt(p99 / 2, p99, 100, [], 0.0)


def test_the_loads_before_and_after_count_alike() -> None:
    """Their mean is the baseline of the abuse."""
    assert slow_down(felt(1.0), felt(6.0), felt(3.0)) == pytest.approx(3.0)
    assert slow_down(felt(3.0), felt(6.0), felt(1.0)) == pytest.approx(3.0)


def test_threads_wait_together(tmp_path: Path) -> None:
    """The kernel reports for each thread: ran, waited (both in nanoseconds), how often."""
    for number, content in enumerate(("9000000000 1500000000 7\n", "1 250000000 3\n")):
        thread = tmp_path / "task" / str(number)
        thread.mkdir(parents=True)
        (thread / "schedstat").write_text(content)
    assert waited_seconds(tmp_path) == pytest.approx(1.75)
