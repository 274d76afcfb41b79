"""Prints the tests of what you changed: `make quick` runs them.

Changed is what differs from a commit (by default `HEAD`) or is new. A package's tests mirror it, so its path determines
their place.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

_ROOT = Path(__file__).parents[1]
_PACKAGES = {  # folder of sources -> its tests
    "server/carousel": "tests/server",
    "training/carousel_training": "tests/training",
    "export/carousel_export": "tests/export",
    "proto/carousel": "tests/server/rpc",
    "bench": "tests/bench",
    "trials": "tests/trials",
    "tools": "tests/tools",
    "examples": "tests/examples",
    "deploy": "tests/deploy",
    "training/recipes": "tests/training/test_recipes.py",
    "training/demo.toml": "tests/training/test_settings.py",
    "docs": "tests/docs",
}

_CARRIED = "tests/server/rpc"  # what transports bring to sessions is tested over the wire
_READ_BY_PAGES = ("pyproject.toml", "Makefile", "mkdocs.yml")


def find_tests(changed: Iterable[str], root: Path = _ROOT) -> list[str]:
    """Returns the test files and folders of changed paths, in order, without those inside another."""
    paths = [PurePosixPath(path) for path in changed]
    found = {test for path in paths if (test := _tests_of(path, root))}
    found |= {_CARRIED for path in paths if path.is_relative_to("server/carousel/sessions")}
    return sorted(
        test for test in found if not any(PurePosixPath(other) in PurePosixPath(test).parents for other in found)
    )


def _tests_of(path: PurePosixPath, root: Path) -> str | None:
    """Returns the nearest test of one path: a module's own, otherwise the folder that mirrors its package."""
    if path.parts[0] == "tests":
        return _changed_test(path, root)
    for sources, tests in _PACKAGES.items():
        if path.is_relative_to(sources):
            return tests if tests.endswith(".py") else _mirror(PurePosixPath(tests), path.relative_to(sources), root)
    return "tests/docs" if path.suffix == ".md" or path.name in _READ_BY_PAGES else None


def _mirror(tests: PurePosixPath, inside: PurePosixPath, root: Path) -> str | None:
    own = tests / inside.parent / f"test_{inside.stem}.py"
    if len(inside.parts) == 1 and (root / own).is_file():  # in a package, a module's change affects its neighbours
        return str(own)
    folder = tests / inside.parent
    while folder != tests and not (root / folder).is_dir():
        folder = folder.parent
    return str(folder) if (root / folder).is_dir() else None


def _changed_test(path: PurePosixPath, root: Path) -> str | None:
    """A changed test is its own test; a file that tests share affects all tests in its folder. A deleted file affects
    none."""
    if path.name.startswith("test_"):
        return str(path) if (root / path).is_file() else None
    return str(path.parent) if path.suffix == ".py" and (root / path.parent).is_dir() else None


def _changed_paths(base: str) -> list[str]:
    differing = ["git", "diff", "--name-only", base]
    new = ["git", "ls-files", "--others", "--exclude-standard"]
    return [line for command in (differing, new) for line in _lines_of(command)]


def _lines_of(command: list[str]) -> list[str]:
    return subprocess.run(command, cwd=_ROOT, check=True, capture_output=True, text=True).stdout.splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", nargs="?", default="HEAD", help="the commit to compare with")
    try:
        print(*find_tests(_changed_paths(parser.parse_args().base)))
    except subprocess.CalledProcessError as error:
        sys.exit(f"git cannot compare: {error.stderr.strip()}")


if __name__ == "__main__":
    main()
