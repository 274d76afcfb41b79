"""`carousel new-key` prints what seal_keys takes."""

from tests.server.cli.conftest import Run

from carousel.settings import read_settings


def test_a_new_key_is_taken_by_the_setting(run: Run) -> None:
    """It has 32 bytes, on its own line, and differs each time."""
    made = [run("new-key").out for _ in range(3)]
    assert len(set(made)) == 3
    for line in made:
        [key] = read_settings({}, {"seal_keys": line.removesuffix("\n")}).seal_keys
        assert len(key.get_secret_value()) == 32
