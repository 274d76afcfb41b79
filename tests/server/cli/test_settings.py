"""`carousel settings`: what can be set."""

from tests.server.cli.conftest import Run

from carousel.settings import Settings


def test_every_setting_is_listed(run: Run) -> None:
    """Names, in the order of their declaration."""
    result = run("settings")
    assert result.code == 0
    places = [result.out.find(name[:8]) for name in Settings.model_fields]
    assert -1 not in places
