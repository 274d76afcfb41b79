"""One browser and one server for the tests of a module. Pictures stay in a folder that the environment may name."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.server_process import ServerProcess, serve
from tests.system.page.browser import CHROMIUM, DRIVER, Browser


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    reason = "there is no chromium with its driver (Debian packages chromium, chromium-driver)"
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason=reason))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = os.environ.get("CAROUSEL_TEST_PICTURES")
    path = Path(named) if named else tmp_path_factory.mktemp("pictures")
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="module")
def window(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    downloads = tmp_path_factory.mktemp("downloads")
    browser = Browser(pictures, downloads)
    try:
        yield browser
    finally:
        browser.close()
        shutil.rmtree(downloads, ignore_errors=True)


@pytest.fixture
def browser(window: Browser) -> Iterator[Browser]:
    """No test leaves a complaint in the console, nor one of those that it expects."""
    window.complaints()
    window.be_dark(False)
    window.be_phone(False)
    yield window
    assert window.complaints() == []


@pytest.fixture(scope="module")
def page(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("page") / "log.jsonl"
    keys = {"CAROUSEL_SEAL_KEYS": "A" * 43 + "="}
    with serve(bundle, "--set", "inspect=true", log=log, variables=keys, has_page=True) as server:
        yield server
