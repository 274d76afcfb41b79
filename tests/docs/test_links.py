"""Links between pages lead somewhere: to files of this repository, and to headings that they have."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_TOP = [_ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
_PAGES = [*_TOP, *sorted((_ROOT / "docs").rglob("*.md")), *sorted((_ROOT / "bench").rglob("*.md"))]
_LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`(?:[^`\n]|\n(?!\n))+`")
_TEXT = {".py", ".md", ".toml", ".yaml", ".proto", ".cfg", ".js"}


def find_broken(page: Path) -> list[str]:
    """Relative links of a Markdown file whose file or heading is not there."""
    return [link for link in _links(page.read_text()) if not _leads_somewhere(page, link)]


def _links(markdown: str) -> Iterator[str]:
    """Outside code."""
    yield from _LINK.findall(_CODE.sub("code", _BLOCK.sub("", markdown)))


def _leads_somewhere(page: Path, link: str) -> bool:
    target, _, heading = link.partition("#")
    file = (page.parent / target).resolve() if target else page
    return file.exists() and (not heading or heading in _headings(file.read_text()))


def _headings(markdown: str) -> set[str]:
    """Names of a page's headings, as they are linked."""
    found = re.findall(r"^#+ (.+)$", _BLOCK.sub("", markdown), re.MULTILINE)
    titles = (re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in found)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every page of docs/, and those at the top."""
    assert find_broken(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    """A missing file and a missing heading are named; code, other sites and what is there are not."""
    (tmp_path / "there.md").write_text("# There it is, `now`\n```\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n[a](there.md) [b](there.md#there-it-is-now) [c](#page) [d](https://nowhere.invalid)\n"
        "[e](gone.md) [f](there.md#no-heading) [g](#gone)\n```\n[h](gone.md)\n```\n`[i](gone.md)`\n"
    )
    assert find_broken(page) == ["gone.md", "there.md#no-heading", "#gone"]


def test_names_of_pages_in_code_are_there() -> None:
    """Comments, commands and files at the top that name a page of docs/ name one that exists."""
    folders = ("server", "training", "export", "bench", "trials", "tools", "tests", "deploy", "examples", "proto")
    found = (path for folder in folders for path in (_ROOT / folder).rglob("*"))
    files = [path for path in found if path.suffix in _TEXT and "node_modules" not in path.parts]
    files += [*_TOP, _ROOT / "Makefile", _ROOT / "pyproject.toml"]
    named = {(file, name) for file in files for name in re.findall(r"(?<![\w/])docs/[\w/-]+\.\w+\b", file.read_text())}
    gone = {str(file.relative_to(_ROOT)): name for file, name in named if not (_ROOT / name).exists()}
    assert named
    assert gone == {}
