"""What changed is tested by the tests that mirror it, and by no others."""

import subprocess
import sys
from pathlib import Path

import pytest
from tools.changed_tests import find_tests

from tools import changed_tests

_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("changed", "tests"),
    [
        ("server/carousel/shares.py", "tests/server/test_shares.py"),
        ("server/carousel/engine/line.py", "tests/server/engine"),
        ("server/carousel/client/_sync/client.py", "tests/server/client/_sync"),
        ("server/carousel/v1/carousel_pb2.py", "tests/server"),  # no folder mirrors it
        ("training/carousel_training/cells/gru.py", "tests/training/cells"),
        ("export/carousel_export/cli.py", "tests/export/test_cli.py"),
        ("proto/carousel/v1/carousel.proto", "tests/server/rpc"),
        ("trials/worlds.py", "tests/trials"),
        ("docs/client.md", "tests/docs"),
        ("README.md", "tests/docs"),
        ("tests/docs/test_links.py", "tests/docs/test_links.py"),
        ("tests/export/conftest.py", "tests/export"),
        ("tests/export/test_that_is_gone.py", ""),
        ("server/carousel/sessions/many.py", "tests/server/rpc tests/server/sessions"),
        ("training/recipes/wikitext2-1200s.toml", "tests/training/test_recipes.py"),
        ("training/demo.toml", "tests/training/test_settings.py"),
        ("pyproject.toml", "tests/docs"),
        ("Dockerfile", ""),
    ],
)
def test_a_path_has_the_tests_that_mirror_it(changed: str, tests: str) -> None:
    """A module of a package is tested with its neighbours, one at the top alone."""
    assert " ".join(find_tests([changed])) == tests


def test_what_lies_in_another_is_named_once() -> None:
    """Folders come before the files in them, whichever way they were found."""
    changed = ["tests/server/engine/test_line.py", "server/carousel/engine/line.py", "docs/client.md"]
    assert find_tests(changed) == ["tests/docs", "tests/server/engine"]


def test_every_package_has_tests() -> None:
    """Each folder that the table names is there."""
    for sources, tests in changed_tests._PACKAGES.items():
        assert (_ROOT / sources).exists(), sources
        assert (_ROOT / tests).exists(), tests


def test_the_command_sees_what_is_new(tmp_path: Path) -> None:
    """Compared with a commit, a file that git does not know yet counts as well."""
    for command in (["clone", "--quiet", "--shared", str(_ROOT), "."],):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    (tmp_path / "tools" / "changed_tests.py").write_text(Path(changed_tests.__file__).read_text())
    (tmp_path / "docs" / "new.md").write_text("new")
    printed = subprocess.run(
        [sys.executable, "-m", "tools.changed_tests"], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    assert "tests/docs" in printed.split()


def test_a_commit_that_is_not_there_is_an_error() -> None:
    """Nothing to compare with is not the same as nothing changed."""
    command = [sys.executable, "-m", "tools.changed_tests", "nosuch"]
    refused = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
    assert refused.returncode != 0
    assert refused.stderr.startswith("git cannot compare: ")
