"""The page's files come with headers that keep everything else out, to everybody, where the setting says so."""

from importlib.resources import files
from pathlib import Path

import httpx2 as httpx
import pytest
from tests.server.running_app import LOCAL

from carousel.app import running
from carousel.identity.principals import digest
from carousel.settings import Settings

SETTINGS = Settings(**LOCAL, openai_listen="127.0.0.1:0")
KINDS = {"js": "text/javascript", "css": "text/css", "html": "text/html", "svg": "image/svg+xml"}


async def test_every_file_is_served_as_what_it_is(bundle: Path) -> None:
    """With a policy that names no other source and nothing inline."""
    async with running(bundle, SETTINGS) as server, httpx.AsyncClient(base_url=server.page_url) as http:
        names = [one.name for one in files("carousel.web").joinpath("page").iterdir()]
        assert "index.html" in names
        for path in ("/", *(f"/page/{name}" for name in names)):
            answer = await http.get(path)
            kind = KINDS[(path if path != "/" else "x.html").rpartition(".")[2]]
            assert (answer.status_code, answer.headers["content-type"]) == (200, f"{kind}; charset=utf-8")
            assert answer.headers["x-content-type-options"] == "nosniff"
            rules = dict(one.strip().split(" ", 1) for one in answer.headers["content-security-policy"].split(";"))
            assert rules["default-src"] == "'none'"
            assert {rules[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
            assert {rules[name] for name in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
        assert (await http.get("/")).content == (await http.get("/page/index.html")).content


@pytest.mark.parametrize("path", ["/page/", "/page/nothing.js", "/page/..%2ffront.py", "/page/../front.py", "/page"])
async def test_no_other_file_is_served(bundle: Path, path: str) -> None:
    async with running(bundle, SETTINGS) as server, httpx.AsyncClient(base_url=server.page_url) as http:
        assert (await http.get(path)).status_code == 404


async def test_without_the_setting_there_is_no_page(bundle: Path) -> None:
    """The routes for programs stay."""
    settings = SETTINGS.model_copy(update={"page": False})
    async with running(bundle, settings) as server, httpx.AsyncClient() as http:
        assert server.page_url == ""
        for path, status in (("/", 404), ("/page/main.js", 404), ("/carousel/v1/model", 200), ("/v1/models", 200)):
            assert (await http.get(f"http://{server.openai_address}{path}")).status_code == status


async def test_the_files_need_no_identity(bundle: Path, tmp_path: Path) -> None:
    """They ask for it. A foreign name is refused as everywhere."""
    token = digest("crl_" + "x" * 43)
    (tmp_path / "p.toml").write_text(f'[[principal]]\nname = "ann"\ntokens = ["{token}"]\nscopes = []\n')
    settings = SETTINGS.model_copy(update={"principals": tmp_path / "p.toml"})
    async with running(bundle, settings) as server, httpx.AsyncClient(base_url=server.page_url) as http:
        assert (await http.get("/")).status_code == 200
        assert (await http.get("/carousel/v1/model")).status_code == 401
        assert (await http.get("/", headers={"host": "evil.example"})).status_code == 403
