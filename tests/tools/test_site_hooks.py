"""Links keep their meaning on the site, and folders of its navigation are their pages."""

from pathlib import Path

import pytest
from tools.site_hooks import open_folders, resolve_links

_RECORD = "decisions/001-a.md"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Makes a repository with a README, two pages, a folder of records and code."""
    names = (
        "README.md",
        "docs/cells.md",
        "docs/decisions/index.md",
        f"docs/{_RECORD}",
        "deploy/alerts.yaml",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("# Here\n")
    (tmp_path / "docs" / "lines").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("source", "page", "link", "there"),
    [
        ("README.md", "index.md", "[a](docs/cells.md#here)", "[a](cells.md#here)"),
        ("README.md", "index.md", "![a](docs/images/loss.png)", "![a](images/loss.png)"),
        ("README.md", "index.md", "[a](docs/decisions)", "[a](decisions/index.md)"),
        ("docs/cells.md", "cells.md", "[a](../README.md)", "[a](index.md)"),
        ("docs/cells.md", "cells.md", "[`a`](../deploy/alerts.yaml)", "`a`"),
        ("docs/cells.md", "cells.md", "[a](lines)", "a"),
        (f"docs/{_RECORD}", _RECORD, "[a](../cells.md)", "[a](../cells.md)"),
        (f"docs/{_RECORD}", _RECORD, "[a](index.md)", "[a](index.md)"),
        ("docs/cells.md", "cells.md", "[a](../gone.yaml)", "[a](../gone.yaml)"),
        (
            "docs/cells.md",
            "cells.md",
            "[a](https://b.invalid/c.md) [d](#here)",
            "[a](https://b.invalid/c.md) [d](#here)",
        ),
    ],
)
def test_a_link_leads_where_it_led(root: Path, source: str, page: str, link: str, there: str) -> None:
    """Links to the site's own pages work; other files of the repository are only named, and broken links are left for
    MkDocs."""
    assert resolve_links(f"See {link}.", source, page, root) == f"See {there}."


def test_folders_are_their_pages(root: Path) -> None:
    """The index comes first, even inside sections; a folder without pages is left out."""
    nav = [{"Home": "index.md"}, {"More": [{"Decisions": "decisions/"}, {"Lines": "lines/"}, {"Study": "study/"}]}]
    decisions = {"Decisions": ["decisions/index.md", _RECORD]}
    assert open_folders(nav, root / "docs") == [{"Home": "index.md"}, {"More": [decisions]}]
