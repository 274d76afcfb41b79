"""Prints the longest functions and files, and fails where one is too long: a part of `make check`.

A function's lines are those from its `def` to its end, without its decorators and its docstring. Tests are lists, which
are read from any place: their functions count, their files do not.
"""

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOMS = ("server", "training", "export", "bench", "trials", "tools", "examples")
GENERATED = Path("server/carousel/v1")
MAX_LINES = {"function": 60, "file": 400}
NUM_PRINTED = 3
TESTS = "tests"

Size = tuple[int, str]  # lines, name


def measure_functions(path: Path) -> Iterator[Size]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield _count_lines(node), f"{path}:{node.lineno} {node.name}"


def measure_file(path: Path) -> Size:
    return len(path.read_text(encoding="utf-8").splitlines()), str(path)


def find_files(root: Path, rooms: Iterable[str]) -> list[Path]:
    """Returns the hand-written files."""
    files = [path for room in rooms for path in sorted((root / room).rglob("*.py"))]
    return [path for path in files if not path.is_relative_to(root / GENERATED) and "node_modules" not in path.parts]


def report(sizes: dict[str, list[Size]]) -> list[str]:
    """Prints the longest of each kind; returns those that are too long."""
    refused = []
    for kind, found in sizes.items():
        longest = sorted(found, reverse=True)
        shown = ", ".join(f"{name} {lines}" for lines, name in longest[:NUM_PRINTED])
        print(f"{len(found):,} {kind}s, none above {MAX_LINES[kind]} lines; the longest: {shown}")
        refused += [f"{name} is too long" for lines, name in longest if lines > MAX_LINES[kind]]
    return refused


def main() -> None:
    files = find_files(Path(), ROOMS)
    functions = [size for path in [*files, *find_files(Path(), [TESTS])] for size in measure_functions(path)]
    refused = report({"function": functions, "file": [measure_file(path) for path in files]})
    if refused:
        sys.exit("\n".join(refused))


def _count_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    end = node.end_lineno or node.lineno
    docstring = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
    return end - node.lineno + 1 - (_height(docstring) if docstring else 0)


def _height(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


if __name__ == "__main__":
    main()
