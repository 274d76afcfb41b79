"""The benches' rooms: a figure's name says which module prints it, and imports go one way."""

import ast
from pathlib import Path

import pytest
from bench.__main__ import MODULES
from tests.bench.figure_names import Module, find_names, read_modules

ROOT = Path(__file__).parents[2]
MEASURING = ("serving", "training", "peers")
BELOW = {  # room -> the rooms that it may import from, besides itself
    "harness": set[str](),
    "clients": {"harness"},
    "serving": {"harness", "clients"},
    "training": {"harness"},
    "peers": {"harness"},
}


def imports(path: Path) -> set[str]:
    """Returns the modules that a file imports from, by their dotted names."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def of_bench(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] == "bench"}


MODULES_OF_ROOMS = read_modules(ROOT / "bench")
NAMES = find_names(MODULES_OF_ROOMS)


@pytest.mark.parametrize("module", [one for one in MODULES_OF_ROOMS if NAMES[one]], ids=str)
def test_a_figures_name_begins_with_its_module(module: Module) -> None:
    """All that a module prints begins with its name, or with that of the folder that it shares with others."""
    room, prefix = module.parts[:2]
    assert room in MEASURING
    for name in NAMES[module]:
        assert name.startswith(f"{prefix}."), f"{module} prints {name}"


def test_every_command_prints_figures() -> None:
    """Each module that `python -m bench` starts has figures, and no module in `serving` with figures is left out."""
    started = {f"serving.{name}" for names in MODULES.values() for name in names}
    assert started == {str(module) for module in NAMES if NAMES[module] and module.parts[0] == "serving"}
    assert all(name.split(".")[0] == command for command, names in MODULES.items() for name in names)


def test_a_name_that_is_handed_on_counts_for_whom_it_comes_from(tmp_path: Path) -> None:
    """Constants, their beginnings, variables and arguments belong to the module that spells the name."""
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "shared.py").write_text(
        "def show(count, name):\n    print_figure(f'{name}.sum', count, 'x')\n    show_again(3, name=name)\n"
        "def show_again(count, name):\n    print_figure(name, count, 'x')\n"
    )
    (tmp_path / "serving" / "cost.py").write_text(
        "def main(size):\n    name = f'cost.{size}'\n    print_figure(name, 1, 'x')\n"
        "    print_figure('wrong', 1, 'x')\n    shared.show(2, f'other.{size}')\n"
    )
    names = {str(module): found for module, found in find_names(read_modules(tmp_path)).items()}
    assert names == {"serving.shared": set(), "serving.cost": {"cost.", "wrong", "other."}}


def test_a_name_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A name from a table or a call could be anything, so it must begin with a spelled part."""
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "cost.py").write_text("print_figure(TABLE[0], 1, 'x')\n")
    with pytest.raises(ValueError, match="serving.cost"):
        find_names(read_modules(tmp_path))


@pytest.mark.parametrize("room", BELOW)
def test_rooms_import_downwards(room: str) -> None:
    """The harness imports no bench, a client no bench, and no measuring room another."""
    allowed = BELOW[room] | {room}
    for path in (ROOT / "bench" / room).rglob("*.py"):
        assert {name.split(".")[1] for name in of_bench(path)} <= allowed, path


def test_trials_see_the_harness_alone() -> None:
    """What trials share with benches is in `bench.harness`."""
    seen = {name for path in (ROOT / "trials").rglob("*.py") for name in of_bench(path)}
    assert seen
    assert all(name.startswith("bench.harness.") for name in seen)


def test_only_the_tests_of_benches_see_them() -> None:
    """The product's tests have servers of their own (`tests/server_process.py`)."""
    own = ROOT / "tests" / "bench"
    others = [path for path in (ROOT / "tests").rglob("*.py") if own not in path.parents]
    assert len(others) > 100
    assert [path for path in others if of_bench(path)] == []
