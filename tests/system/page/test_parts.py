"""Every part of the page does what a person expects of it, on a trained model, and looks as it should."""

from pathlib import Path

from selenium.webdriver.common.keys import Keys
from tests.server_process import ServerProcess
from tests.system.page.browser import Browser

GROWING = """
window.grown = "the horses rise and fall\\n";
window.showOpenFilePicker = async () => [{ getFile: async () => new File([window.grown], "log.txt") }];
"""


def test_words_come_at_every_key(browser: Browser, page: ServerProcess) -> None:
    """Tab takes the first; a click takes any; tokens are there too."""
    browser.open(page.page_url)
    browser.wait(lambda: browser.all("#next button"))
    browser.fill("#write-text", "The carousel turns and the hor")
    browser.wait(lambda: browser.all("#next .word") and browser.text("#next .word") == "horses")
    browser.find("#write-text").send_keys(Keys.TAB)
    assert browser.find("#write-text").get_property("value") == "The carousel turns and the horses "
    browser.wait(lambda: browser.text("#next .word") == "rise")
    assert int(browser.text("#next .share").removesuffix(" %")) > 50
    browser.click("#next button")
    assert browser.find("#write-text").get_property("value") == "The carousel turns and the horses rise "
    browser.click("input[value=tokens]")
    browser.wait(lambda: browser.all("#next .word") and browser.text("#next .word") == "a")
    browser.picture("write")


def test_only_what_is_for_the_text_is_taken(browser: Browser, page: ServerProcess) -> None:
    """Who types faster than answers come keeps what he has typed."""
    browser.open(page.page_url)
    browser.fill("#write-text", "The carousel turns and the hor")
    browser.wait(lambda: browser.all("#next .word") and browser.text("#next .word") == "horses")
    browser.run("const one = document.getElementById('write-text'); one.value += 'kxqz'")
    browser.find("#write-text").send_keys(Keys.TAB)
    assert browser.find("#write-text").get_property("value") == "The carousel turns and the horkxqz"
    assert browser.driver.switch_to.active_element.get_attribute("id") == "write-text"


def test_the_field_can_be_left_with_the_keyboard(browser: Browser, page: ServerProcess) -> None:
    """Escape gives Tab back its meaning, until something is typed."""
    browser.open(page.page_url)
    browser.wait(lambda: browser.all("#next button"))
    field = browser.find("#write-text")
    field.send_keys(Keys.ESCAPE, Keys.TAB)
    assert browser.driver.switch_to.active_element.get_attribute("id") == "write-temperature"


def test_continuations_stand_side_by_side(browser: Browser, page: ServerProcess) -> None:
    """As many as asked, as long as asked; one can be used, and the same seed gives the same."""
    browser.open(page.page_url)
    browser.fill("#write-text", "The carousel ")
    for name, value in (("count", "2"), ("tokens", "30"), ("seed", "7")):
        browser.fill(f"#write-{name}", value)
    texts = []
    for _ in range(2):
        browser.find("#write-text").send_keys(Keys.CONTROL, Keys.ENTER)
        browser.wait(lambda: [one.text for one in browser.all("#continuations .quiet")] == ["as long as asked"] * 2)
        texts.append([one.get_attribute("textContent") for one in browser.all("#continuations .written")])
    assert texts[0] == texts[1]
    assert all(text is not None and len(text) == 30 and text.startswith(" ") for text in texts[0])
    browser.press("Use it", "#continuations")
    assert browser.find("#write-text").get_property("value") == f"The carousel{texts[0][0]}"
    assert browser.all("#continuations article") == []


def test_a_continuation_can_be_stopped(browser: Browser, page: ServerProcess) -> None:
    """What is written by then stays, and can be used."""
    browser.open(page.page_url)
    browser.fill("#write-tokens", "4096")
    browser.fill("#write-count", "1")
    browser.click("#write-go")
    browser.wait(lambda: len(browser.text("#continuations .written")) > 20)
    browser.click("#write-stop")
    browser.wait(lambda: browser.text("#continuations .quiet") == "stopped")
    assert browser.find("#continuations button").is_enabled()
    assert not browser.find("#problem").is_displayed()


def test_the_most_surprising_line_comes_first(browser: Browser, page: ServerProcess) -> None:
    """With the token that is to blame, its rank, and what was expected there."""
    browser.open(page.page_url, "surprise")
    lines = ["the horses rise and fall; when the music ends the horses rest."] * 3
    lines[1] = "the horses rise and fall; when the music ENDS the horses rest."
    browser.fill("#surprise-text", "\n".join(lines))
    browser.click("#surprise-go")
    browser.wait(lambda: "in 3 lines" in browser.text("#surprise-note"))
    first = browser.find("#surprise-lines button")
    assert "line 2" in first.text
    first.click()
    assert browser.text("#heat [aria-selected=true]") in "ENDS"
    assert "rank" in browser.text("#heat-detail")
    assert len(browser.all("#heat-detail li")) == 5
    before = browser.find("#heat [aria-selected=true]").get_attribute("id")
    browser.find("#heat").send_keys(Keys.ARROW_RIGHT)
    assert browser.find("#heat [aria-selected=true]").get_attribute("id") != before
    browser.picture("surprise")


def test_a_file_is_measured_whole(browser: Browser, page: ServerProcess, tmp_path: Path) -> None:
    """In portions that one session joins: the state goes on from one to the next, and nothing is left behind."""
    text = "".join(f"the horses rise and fall {number}\n" for number in range(400))
    (tmp_path / "log.txt").write_text(text)
    browser.open(page.page_url, "surprise")
    browser.find("#surprise-file").send_keys(str(tmp_path / "log.txt"))
    browser.wait(lambda: f"{len(text):,} tokens in 400 lines" in browser.text("#surprise-note"))
    browser.wait(lambda: not browser.find("#surprise-stop").is_enabled())
    assert sessions(browser) == []
    assert browser.find("#heat-later").is_displayed()
    browser.click("#heat-later")
    browser.wait(lambda: browser.find("#heat-earlier").is_displayed())


def test_a_growing_file_is_followed(browser: Browser, page: ServerProcess) -> None:
    """Whole lines that are added are measured where the old ones ended."""
    browser.open(page.page_url, "surprise")
    browser.wait(lambda: "tokens in" in browser.text("#surprise-note"))
    browser.run(GROWING)
    browser.run("document.getElementById('surprise-follow').hidden = false")
    browser.click("#surprise-follow")
    browser.wait(lambda: "in 1 lines" in browser.text("#surprise-note"))
    browser.run("window.grown += 'ERROR 42\\nhalf a li'")
    browser.wait(lambda: "in 2 lines" in browser.text("#surprise-note"))
    assert "line 2" in browser.text("#surprise-lines button")
    assert len(sessions(browser)) == 1
    browser.run("window.grown += 'ne\\n'")
    browser.wait(lambda: "in 3 lines" in browser.text("#surprise-note"))
    browser.click("#surprise-stop")
    browser.wait(lambda: sessions(browser) == [])


def test_a_long_text_is_never_cut_inside_of_a_character(browser: Browser, page: ServerProcess) -> None:
    """Neither for its measure nor for suggestions."""
    browser.open(page.page_url, "surprise")
    browser.wait(lambda: "tokens in" in browser.text("#surprise-note"))
    browser.run("document.getElementById('surprise-text').value = 'a' + '\U0001f600'.repeat(4000)")
    browser.click("#surprise-go")
    browser.wait(lambda: browser.text("#surprise-note").startswith("16,001 tokens in 1 lines"))
    browser.show("write")
    browser.run("document.getElementById('write-text').value = '\U0001f600' + 'a b '.repeat(1499) + 'ab'")
    browser.find("#write-text").send_keys(" ")
    browser.wait(lambda: browser.text("#next-note").startswith("5,99"))
    assert not browser.find("#problem").is_displayed()


def test_of_two_clicks_one_measures(browser: Browser, page: ServerProcess) -> None:
    """Whatever runs; a stop at once leaves no session either."""
    browser.open(page.page_url, "surprise")
    browser.wait(lambda: "tokens in" in browser.text("#surprise-note"))
    browser.run("document.getElementById('surprise-text').value = 'one two three\\n'.repeat(1500)")
    again = "setTimeout(() => { go.click(); go.click() }, 150)"
    browser.run(f"const go = document.getElementById('surprise-go'); go.click(); {again}")
    browser.wait(lambda: "21,000 tokens in 1,500 lines" in browser.text("#surprise-note"))
    browser.wait(lambda: not browser.find("#surprise-stop").is_enabled())
    browser.wait(lambda: sessions(browser) == [])
    browser.run("document.getElementById('surprise-go').click(); document.getElementById('surprise-stop').click()")
    browser.run("document.getElementById('surprise-go').click()")
    browser.driver.execute_async_script("setTimeout(arguments[0], 3)")
    browser.run("document.getElementById('surprise-stop').click()")
    browser.wait(lambda: sessions(browser) == [])


def test_the_end_of_a_file_may_be_half_a_character(browser: Browser, page: ServerProcess, tmp_path: Path) -> None:
    """It is shown as such."""
    (tmp_path / "cut.txt").write_bytes(b"the horses caf\xc3")
    browser.open(page.page_url, "surprise")
    browser.find("#surprise-file").send_keys(str(tmp_path / "cut.txt"))
    browser.wait(lambda: "\ufffd" in (browser.find("#heat").get_attribute("textContent") or ""))


def test_what_is_typed_into_a_number_is_bounded(browser: Browser, page: ServerProcess) -> None:
    """As its field says."""
    browser.open(page.page_url)
    browser.fill("#write-tokens", "2")
    browser.fill("#write-count", "200000")
    browser.click("#write-go")
    browser.wait(lambda: "as long as asked" in browser.text("#continuations"))
    assert len(browser.all("#continuations article")) == 8


def test_units_are_seen_in_the_text(browser: Browser, page: ServerProcess) -> None:
    """A map of all units; a click or a key chooses one, and so does its number."""
    browser.open(page.page_url, "inside")
    browser.wait(lambda: browser.find("#inside-found").is_displayed())
    browser.fill("#inside-text", "the horses rise and fall")
    browser.click("#inside-go")
    browser.wait(lambda: browser.text("#inside-note") == "24 tokens read.")
    assert len(browser.all("#unit-text span")) == 24
    unit = browser.text("#unit-title")
    browser.find("#inside-map").send_keys(Keys.ARROW_DOWN)
    browser.wait(lambda: browser.text("#unit-title") != unit)
    browser.fill("#inside-unit", "5")
    browser.find("#inside-unit").send_keys(Keys.TAB)
    browser.wait(lambda: browser.text("#unit-title").startswith("Unit 5 of "))
    options = [one.text for one in browser.all("#inside-tensor option")]
    assert len(options) == 2
    colours = {one.value_of_css_property("background-color") for one in browser.all("#unit-text span")}
    assert len(colours) > 5
    browser.picture("inside")


def test_the_server_is_seen_at_work(browser: Browser, page: ServerProcess) -> None:
    """Rates, limits, latencies and the model's card."""
    browser.open(page.page_url, "health")
    browser.wait(lambda: len(browser.all("#gauges .gauge")) == 8)
    browser.run("""
      const body = JSON.stringify({ prompt: "the", max_tokens: 2000 });
      fetch("/v1/completions", { method: "POST", headers: { "content-type": "application/json" }, body });
    """)
    browser.wait(lambda: browser.text("#gauges .gauge strong") not in ("", "0"))
    assert "of 64" in browser.text("#gauges")
    assert "ms" in browser.text("#latency")
    assert "lstm" in browser.text("#card")
    browser.picture("health")


def sessions(browser: Browser) -> list[str]:
    """Returns the ids of the sessions that exist."""
    found = browser.driver.execute_async_script(
        "const done = arguments[0]; fetch('/carousel/v1/sessions').then((one) => one.json()).then(done)"
    )
    return [one["session_id"] for one in found["sessions"]]
