"""What the site needs beside the pages in docs/: the pages at the top of the repository, links that leave docs/, and
folders in the navigation. MkDocs calls these functions by their names; `mkdocs.yml` names this file."""

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # only for `make docs`: the rest of this module is tested without them
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

TOP_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\((?!https?:|#)([^)\s]+)\)")


def on_config(config: "MkDocsConfig") -> "MkDocsConfig":
    """Replaces folders of the navigation with their pages; leaves out empty ones."""
    if config.nav is not None:
        config.nav = open_folders(config.nav, Path(config.docs_dir))
    return config


def on_files(files: "Files", *, config: "MkDocsConfig") -> "Files":
    """Adds README, CONTRIBUTING and CHANGELOG as pages of the site."""
    from mkdocs.structure.files import File

    root = Path(config.docs_dir).parent
    for source, page in TOP_PAGES.items():
        text = resolve_links((root / source).read_text(), source, page, root)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, *, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    """Resolves links of pages in docs/ that leave docs/. Those of the pages at the top are resolved already."""
    uri = page.file.src_uri
    if uri in TOP_PAGES.values():
        return markdown
    return resolve_links(markdown, f"docs/{uri}", uri, Path(config.docs_dir).parent)


def resolve_links(markdown: str, source: str, page: str, root: Path) -> str:
    """Returns the Markdown of the file `source` for the place `page` in the site. A link to a page of the site leads
    there; a link to another file of the repository becomes its text. A link to a missing file stays, so that MkDocs
    refuses it."""

    def resolve(link: re.Match[str]) -> str:
        is_image, text, target = link.groups()
        path, hash_sign, heading = target.partition("#")
        where = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        place = TOP_PAGES.get(where) or (where.removeprefix("docs/") if where.startswith("docs/") else None)
        if place is not None and (root / where).is_dir():
            place = f"{place}/index.md" if (root / where / "index.md").exists() else None
        if place is not None:
            return f"{is_image}[{text}]({posixpath.relpath(place, posixpath.dirname(page) or '.')}{hash_sign}{heading})"
        return text if (root / where).exists() else link[0]

    return _LINK.sub(resolve, markdown)


def open_folders(nav: list[Any], docs: Path) -> list[Any]:
    """Returns the navigation with each name that ends with a slash replaced by the folder's index and other pages."""
    opened: list[Any] = []
    for item in nav:
        [(title, target)] = item.items()
        if isinstance(target, list):
            opened.append({title: open_folders(target, docs)})
        elif not target.endswith("/"):
            opened.append(item)
        elif pages := sorted((docs / target).rglob("*.md"), key=lambda path: (path.stem != "index", path)):
            opened.append({title: [path.relative_to(docs).as_posix() for path in pages]})
    return opened
