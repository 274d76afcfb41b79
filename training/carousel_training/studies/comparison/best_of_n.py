"""The expected result of a search of n trials (Dodge et al. 2019, "Show Your Work")."""

from collections.abc import Sequence


def expected_best(losses: Sequence[float]) -> list[float]:
    """Returns the expected least loss of n trials, for n = 1 to the number of trials made.

    n trials are drawn with replacement from those made. In rising order the k-th of N is the least of n with the chance
    ((N - k + 1) / N)^n - ((N - k) / N)^n.
    """
    ordered, num_trials = sorted(losses), len(losses)
    return [
        sum(
            loss * (((num_trials - k) / num_trials) ** n - ((num_trials - k - 1) / num_trials) ** n)
            for k, loss in enumerate(ordered)
        )
        for n in range(1, num_trials + 1)
    ]
