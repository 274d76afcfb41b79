"""A person goes back and forth in a session's past, and takes other ways from there."""

from collections.abc import Callable

import pytest
from selenium.webdriver.common.keys import Keys
from tests.server_process import ServerProcess
from tests.system.page.browser import Browser

from carousel.client import Client


@pytest.fixture
def client(page: ServerProcess) -> Client:
    return Client(page.grpc_address, timeout_seconds=60)


@pytest.fixture
def tree(browser: Browser, page: ServerProcess, client: Client) -> Callable[[], list[str]]:
    """Starts with one session that has read and written once; returns what the tree's points are called."""
    for one in client.list_sessions():
        client.delete_session(one.session_id)
    browser.open(page.page_url, "time")
    browser.fill("#time-name", "tale")
    browser.click("#time-create")

    def points() -> list[str]:
        return [one.get_attribute("aria-label") or "" for one in browser.all("#tree .point")]

    browser.wait(lambda: points() == ["tale at 0, now"])
    write(browser, "the horses ", 10)
    browser.wait(lambda: points() == ["tale at 0", "tale at 21, now"])
    return points


def write(browser: Browser, text: str, num_tokens: int) -> None:
    browser.fill("#point textarea", text)
    browser.fill("#point input[type=number]", str(num_tokens))
    browser.click("#point button.strong")


def choose(browser: Browser, label: str) -> None:
    browser.click(f'#tree .point[aria-label^="{label}"]')
    browser.wait(lambda: browser.find(f'#tree .point[aria-label^="{label}"]').get_attribute("aria-pressed") == "true")


def test_a_session_goes_on_and_is_read(browser: Browser, tree: Callable[[], list[str]], client: Client) -> None:
    """The text is what was read and, marked, what was written; the server's session is the same."""
    write(browser, " and ", 6)
    browser.wait(lambda: tree() == ["tale at 0", "tale at 21", "tale at 32, now"])
    shown = browser.find("#point .transcript").get_attribute("textContent") or ""
    assert shown.startswith("the horses ")
    assert len(shown) == 32
    assert len(browser.all("#point mark")) == 2
    assert client.get_session("tale").position == 32


IN_SIGHT = """
    const box = document.getElementById("tree").getBoundingClientRect();
    const point = document.querySelector("#tree .chosen").getBoundingClientRect();
    const name = document.querySelector("#tree .name").getBoundingClientRect();
    return box.left <= name.left && name.right <= point.left && point.right <= box.right;
"""
CLICK_TWICE = """
    const button = [...document.querySelectorAll("#time button")].find((one) => one.textContent === arguments[0]);
    const fetch = window.fetch;
    window.changes = [];
    window.fetch = (path, options) => {
      if (options?.method === "POST") window.changes.push(path);
      return fetch(path, options);
    };
    button.click();
    button.click();
"""


def test_a_second_click_on_continue_does_nothing(browser: Browser, tree: Callable[[], list[str]]) -> None:
    """The turn is asked for once, and no problem is shown."""
    browser.fill("#point textarea", " and ")
    browser.fill("#point input[type=number]", "6")
    browser.run(CLICK_TWICE, "Continue")
    browser.wait(lambda: tree() == ["tale at 0", "tale at 21", "tale at 32, now"])
    assert browser.run("return window.changes") == ["/v1/completions"]
    assert not browser.find("#problem").is_displayed()


def test_a_second_click_on_fork_does_nothing(browser: Browser, tree: Callable[[], list[str]]) -> None:
    """There is one fork, and no problem is shown."""
    browser.run(CLICK_TWICE, "Fork here")
    browser.wait(lambda: "tale-2 at 21, now" in tree())
    assert browser.run("return window.changes") == ["/carousel/v1/sessions/tale/fork"]
    assert not browser.find("#problem").is_displayed()


def test_a_second_click_on_create_does_nothing(browser: Browser, tree: Callable[[], list[str]]) -> None:
    """There is one new session, and no problem is shown."""
    browser.fill("#time-name", "other")
    browser.run(CLICK_TWICE, "Create")
    browser.wait(lambda: "other at 0, now" in tree())
    assert browser.run("return window.changes") == ["/carousel/v1/sessions"]
    assert not browser.find("#problem").is_displayed()


def test_the_chosen_point_is_in_sight(browser: Browser, tree: Callable[[], list[str]], client: Client) -> None:
    """However long the past is: the present at first, then a point at its other end. The session's name is in sight
    beside it."""
    session = client.open_session("tale")
    for _ in range(12):
        session.feed("ab")
    browser.click("#time-refresh")
    browser.wait(lambda: any(label.endswith("45, now") for label in tree()))
    assert browser.run(IN_SIGHT)
    browser.run("document.querySelector('#tree .point').dispatchEvent(new MouseEvent('click'))")
    browser.wait(lambda: browser.find("#tree .point").get_attribute("aria-pressed") == "true")
    assert browser.run(IN_SIGHT)


def test_the_past_is_forked_and_compared(browser: Browser, tree: Callable[[], list[str]], client: Client) -> None:
    """A fork hangs below its parent; compared texts show where they part."""
    choose(browser, "tale at 0")
    browser.fill("#point textarea", "when ")
    browser.press("Fork and continue", "#point")
    browser.wait(lambda: "tale-2 at 29, now" in tree())
    assert tree() == ["tale at 0", "tale at 21, now", "tale-2 at 0", "tale-2 at 29, now"]
    assert len(browser.all("#tree .fork")) == 1
    assert client.get_session("tale").position == 21
    browser.press("Compare", "#point")
    browser.wait(lambda: browser.all("#compared-tale-2"))
    choose(browser, "tale at 21")
    browser.press("Compare", "#point")
    browser.wait(lambda: browser.all("#compared-tale"))
    assert [len(one.find_elements("css selector", "li")) > 0 for one in browser.all("#comparison article")] == [
        True
    ] * 2
    browser.picture("time")


def test_the_past_is_returned_to(browser: Browser, tree: Callable[[], list[str]], client: Client) -> None:
    """A checkpoint outlives the return, and can be chosen after it."""
    browser.fill("#point .group:last-child .row:nth-child(2) input", "cliff")
    browser.press("Save a checkpoint", "#point")
    browser.wait(lambda: tree()[-1] == "tale at 21, now, checkpoint cliff")
    choose(browser, "tale at 0")
    browser.press("Rewind to here", "#point")
    browser.wait(lambda: tree() == ["tale at 0, now", "tale at 21, checkpoint cliff"])
    assert client.get_session("tale").position == 0
    choose(browser, "tale at 21")
    browser.press("Rewind to here", "#point")
    browser.wait(lambda: tree()[-1] == "tale at 21, now, checkpoint cliff")


def test_a_state_is_taken_away_and_brought_back(
    browser: Browser, tree: Callable[[], list[str]], client: Client
) -> None:
    """As a file, which another session begins with; the first one may be gone."""
    browser.press("Export", "#point")
    saved = browser.wait(lambda: next(browser.downloads.glob("tale-21*.carousel"), None))
    assert saved is not None
    browser.press("Delete", "#point")
    browser.wait(lambda: tree() == [])
    browser.fill("#time-name", "copy")
    browser.find("#time-import").send_keys(str(saved))
    browser.wait(lambda: tree() == ["copy at 21, now"])
    assert "keeps states, not texts" in browser.text("#point")


def test_the_tree_is_walked_with_keys(browser: Browser, tree: Callable[[], list[str]]) -> None:
    """One stop of Tab; arrows move among its points, Enter chooses."""
    browser.find('#tree .point[tabindex="0"]').send_keys(Keys.ARROW_LEFT)
    focused = browser.driver.switch_to.active_element
    assert focused.get_attribute("aria-label") == "tale at 0"
    focused.send_keys(Keys.ENTER)
    browser.wait(lambda: browser.text("#point h2") == "tale at 0")
    assert len(browser.all('#tree .point[tabindex="0"]')) == 1


def test_any_name_is_a_name(browser: Browser, tree: Callable[[], list[str]], client: Client) -> None:
    """Also one that every object of the browser's language has; a session is not the one that had its name before."""
    for name in ("constructor", "toString"):
        client.create_session(name)
    client.delete_session("tale")
    client.create_session("tale")
    client.predict("something else entirely", session_id="tale")
    browser.click("#time-refresh")
    for label in ("constructor at 0", "toString at 0", "tale at 23"):
        browser.wait(lambda label=label: any(one.startswith(label) for one in tree()))  # type: ignore[misc]
        choose(browser, label)
        assert browser.text("#point h2") == label.removesuffix(", now")
    assert "the horses" not in browser.text("#point .transcript")


def test_a_session_behind_many_others_stays_in_sight(
    browser: Browser, tree: Callable[[], list[str]], client: Client
) -> None:
    """The newest is on the last page of the list."""
    for number in range(60):
        client.create_session(f"other-{number}")
    browser.fill("#time-name", "last")
    browser.click("#time-create")
    browser.wait(lambda: browser.text("#point h2") == "last at 0")
    assert "last at 0, now" in tree()


def test_what_the_server_refuses_is_told(browser: Browser, tree: Callable[[], list[str]], client: Client) -> None:
    """Another client has moved the session on: nothing is written in silence at another place."""
    client.predict("x", session_id="tale")
    write(browser, "and ", 3)
    browser.wait(lambda: browser.find("#problem").is_displayed())
    assert "21" in browser.text("#problem")
    browser.wait(lambda: "tale at 22, now" in tree())
    browser.complaints()  # the browser tells of each answer that is an error
