"""A function or file that is too long is reported by its name and its lines."""

from pathlib import Path

import pytest
from tools.sizes import MAX_LINES, find_files, measure_file, measure_functions, report

SOURCE = """\
@decorated
def outer(
    first: int,
) -> None:
    '''A docstring
    of two lines.'''
    async def inner() -> None:
        pass
"""


def test_a_functions_lines_are_counted_without_its_docstring(tmp_path: Path) -> None:
    """Its arguments and the functions in it count; decorators do not."""
    path = tmp_path / "some.py"
    path.write_text(SOURCE)
    assert set(measure_functions(path)) == {(5, f"{path}:2 outer"), (2, f"{path}:7 inner")}
    assert measure_file(path) == (8, str(path))


def test_what_is_generated_is_not_measured(tmp_path: Path) -> None:
    """What another language's installer brought is not measured either."""
    kept = tmp_path / "server" / "carousel" / "app.py"
    for path in (kept, kept.parent / "v1" / "stubs.py", tmp_path / "server" / "node_modules" / "one.py"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert find_files(tmp_path, ["server"]) == [kept]


@pytest.mark.parametrize("kind", MAX_LINES)
def test_one_line_too_many_is_refused(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The bound itself is allowed."""
    assert report({kind: [(MAX_LINES[kind], "allowed")]}) == []
    assert report({kind: [(3, "short"), (MAX_LINES[kind] + 1, "long")]}) == ["long is too long"]
    assert f"long {MAX_LINES[kind] + 1}, short 3" in capsys.readouterr().out
