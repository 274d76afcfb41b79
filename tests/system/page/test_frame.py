"""The page is open to everybody who uses a keyboard, a reader or a phone, asks for a token, and loads nothing else."""

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys
from tests.server_process import ServerProcess, serve
from tests.system.page.browser import TABS, Browser

from carousel.identity.principals import digest

AXE = Path(__file__).parents[3] / ".venv/page/node_modules/axe-core/axe.min.js"
TOKEN = "crl_" + "x" * 43


def settle(browser: Browser, tab: str) -> None:
    """Waits until the part shows what it has to show."""
    shown = {"write": "#next button", "surprise": "#heat span", "time": "#tree > *", "health": "#gauges .gauge"}
    browser.wait(lambda: browser.all(shown.get(tab, "#unit-text span")))


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not there: `make test` gets it where there is npm")
@pytest.mark.parametrize("is_dark", [False, True])
def test_no_accessibility_issue_is_found(browser: Browser, page: ServerProcess, is_dark: bool) -> None:
    """By axe-core, in each part, also with a session's tree, results and continuations on it."""
    browser.be_dark(is_dark)
    browser.open(page.page_url)
    for tab in TABS:
        browser.show(tab)
        settle(browser, tab)
        fill_part(browser, tab)
        browser.run(AXE.read_text())
        found = browser.driver.execute_async_script("axe.run().then(arguments[0])")
        told = [(one["id"], one["impact"], [node["html"] for node in one["nodes"]][:3]) for one in found["violations"]]
        assert told == [], (tab, told)
        browser.picture(f"{tab}-{'dark' if is_dark else 'light'}")


def fill_part(browser: Browser, tab: str) -> None:
    if tab == "write":
        browser.click("#write-go")
        browser.wait(lambda: "as long as asked" in browser.text("#continuations"))
    if tab == "surprise":
        browser.click("#surprise-lines button")
    if tab == "time":
        browser.click("#time-create")
        browser.wait(lambda: browser.all("#point textarea"))


def test_nothing_is_wider_than_a_phone(browser: Browser, page: ServerProcess) -> None:
    browser.be_phone(True)
    browser.open(page.page_url)
    for tab in TABS:
        browser.show(tab)
        settle(browser, tab)
        assert browser.run("return document.documentElement.scrollWidth") <= 360, tab
        browser.picture(f"{tab}-phone")


def test_parts_are_walked_with_keys(browser: Browser, page: ServerProcess) -> None:
    """Arrows move among the parts, and the address keeps the place."""
    browser.open(page.page_url)
    browser.find("#tab-write").send_keys(Keys.ARROW_LEFT)
    assert browser.driver.switch_to.active_element.get_attribute("id") == "tab-health"
    assert browser.find("#health").is_displayed()
    assert browser.driver.current_url.endswith("#health")
    browser.driver.switch_to.active_element.send_keys(Keys.HOME)
    assert browser.find("#write").is_displayed()
    assert [one.get_attribute("id") for one in browser.all("main > section:not([hidden])")] == ["write"]


def test_the_theme_can_be_chosen(browser: Browser, page: ServerProcess) -> None:
    """It stays chosen."""
    browser.open(page.page_url)
    light = browser.find("body").value_of_css_property("background-color")
    browser.click("#theme")
    dark = browser.find("body").value_of_css_property("background-color")
    assert dark != light
    browser.driver.refresh()
    assert browser.find("body").value_of_css_property("background-color") == dark
    browser.run("localStorage.clear()")


def test_nothing_comes_from_elsewhere(browser: Browser, page: ServerProcess) -> None:
    """All that the page loads and asks is this server's, and what another origin or a document's own script tries is
    blocked."""
    browser.open(page.page_url)
    settle(browser, "write")
    loaded = browser.run("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert loaded
    assert all(one.startswith(page.page_url) for one in loaded)
    script = "one.textContent = 'window.wrong = 1'; document.body.append(one)"
    browser.run(f"const one = document.createElement('script'); {script}")
    assert browser.run("return window.wrong") is None
    blocked = browser.driver.execute_async_script(
        "const done = arguments[0]; fetch('http://127.0.0.1:9/').then(() => done('sent'), (error) => done(error.name))"
    )
    assert blocked == "TypeError"
    assert any("Content Security Policy" in one for one in browser.complaints())


def test_a_text_is_never_markup(browser: Browser, page: ServerProcess) -> None:
    """What somebody writes, or a file has, is shown as it is."""
    text = "<img src=x onerror='window.wrong=1'><b>bold</b>"
    browser.open(page.page_url, "surprise")
    browser.fill("#surprise-text", text)
    browser.click("#surprise-go")
    browser.wait(lambda: f"{len(text)} tokens" in browser.text("#surprise-note"))
    assert browser.find("#heat").get_attribute("textContent") == text
    assert browser.all("#heat img, #heat b, #surprise-lines img, #surprise-lines b") == []
    assert browser.run("return window.wrong") is None


def test_the_files_are_small_and_plain() -> None:
    """No more than 200 kB, no other host, no script or style in the document, no text taken for markup."""
    contents = {one.name: one.read_text() for one in files("carousel.web").joinpath("page").iterdir()}
    assert sum(len(content.encode()) for content in contents.values()) < 200_000
    for name, content in contents.items():
        hosts = set(re.findall(r"https?://([\w.]+)", content)) - {"www.w3.org"}
        assert hosts == set(), name
        assert "innerHTML" not in content
        assert "insertAdjacentHTML" not in content
    index = contents["index.html"]
    assert re.findall(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", index) == []
    used = set(re.findall(r'(?:src|href)="/page/([^"]+)"', index)) | set(
        re.findall(r'from "\./([^"]+)"', "".join(contents.values()))
    )
    assert used | {"index.html"} == contents.keys()


@pytest.fixture
def guarded(bundle: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that knows one principal."""
    lines = ["[[principal]]", 'name = "ann"', f'tokens = ["{digest(TOKEN)}"]', 'scopes = ["admin"]']
    (tmp_path / "principals.toml").write_text("\n".join(lines))
    with serve(bundle, "--set", f"principals={tmp_path / 'principals.toml'}", has_page=True) as server:
        yield server


def test_a_token_is_asked_for_and_kept_in_the_tab(browser: Browser, guarded: ServerProcess) -> None:
    """A wrong one is told; the right one opens the page; nothing of it stays elsewhere."""
    browser.open(guarded.page_url)
    browser.wait(lambda: browser.find("#token-dialog").get_attribute("open"))
    browser.fill("#token-value", "wrong")
    browser.press("Use it", "#token-dialog")
    browser.wait(lambda: browser.find("#problem").is_displayed())
    browser.click("#token")
    browser.fill("#token-value", TOKEN)
    browser.press("Use it", "#token-dialog")
    settle(browser, "write")
    kept: Any = browser.run("return [Object.values(sessionStorage), Object.values(localStorage), document.cookie]")
    assert kept == [[TOKEN], [], ""]
    browser.click("#token")
    browser.press("Forget it", "#token-dialog")
    assert browser.run("return Object.values(sessionStorage)") == []
    assert all("401" in one for one in browser.complaints())


def test_states_are_shown_only_where_the_server_allows_it(browser: Browser, guarded: ServerProcess) -> None:
    """The part says how to allow it."""
    browser.open(guarded.page_url, "inside")
    browser.wait(lambda: browser.find("#token-dialog").get_attribute("open"))
    browser.fill("#token-value", TOKEN)
    browser.press("Use it", "#token-dialog")
    browser.wait(lambda: "inspect=true" in browser.text("#inside-note"))
    assert not browser.find("#inside-go").is_enabled()
    browser.complaints()
