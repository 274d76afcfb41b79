"""A person at a real browser: Debian's Chromium, driven as by hand. It waits for what it sees, and never sleeps."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
TABS = ("write", "surprise", "time", "inside", "health")
_SECONDS = 30
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
)
Found = TypeVar("Found")


class Browser:
    """One window. Pictures go to `pictures`."""

    def __init__(self, pictures: Path, downloads: Path) -> None:
        options = Options()
        options.binary_location = str(CHROMIUM)
        for flag in (*_FLAGS, "--window-size=1240,1000"):
            options.add_argument(flag)
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(str(DRIVER), log_output=os.devnull))
        self.downloads = downloads
        self._pictures = pictures

    def close(self) -> None:
        self.driver.quit()

    def open(self, url: str, tab: str = "write") -> None:
        """Opens the page anew, without what the tab kept, and waits until the model is there."""
        self.driver.get(url)
        self.driver.execute_script("sessionStorage.clear(); localStorage.clear()")
        self.driver.get(f"{url}?{os.urandom(4).hex()}#{tab}")

    def wait(self, condition: Callable[[], Found]) -> Found:
        """Returns what the condition returns as soon as it is true."""
        gone = [NoSuchElementException, StaleElementReferenceException]  # it is being drawn anew
        waiting: Any = WebDriverWait(self.driver, _SECONDS, poll_frequency=0.05, ignored_exceptions=gone)
        return waiting.until(lambda _: condition())  # type: ignore[no-any-return]

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def click(self, selector: str) -> None:
        self.find(selector).click()

    def press(self, label: str, within: str = "body") -> None:
        """Presses the button that has this label."""
        next(one for one in self.all(f"{within} button") if one.text == label and one.is_displayed()).click()

    def show(self, tab: str) -> None:
        self.click(f"#tab-{tab}")
        self.wait(lambda: self.find(f"#{tab}").is_displayed())

    def fill(self, selector: str, text: str) -> None:
        element = self.find(selector)
        element.clear()
        element.send_keys(text)

    def run(self, script: str, *values: Any) -> Any:
        return self.driver.execute_script(script, *values)

    def picture(self, name: str) -> Path:
        path = self._pictures / f"{name}.png"
        assert self.driver.save_screenshot(str(path))
        return path

    def be_dark(self, is_dark: bool) -> None:
        scheme = "dark" if is_dark else "light"
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def be_phone(self, is_phone: bool) -> None:
        if is_phone:
            size = {"width": 360, "height": 780, "deviceScaleFactor": 1, "mobile": True}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        else:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def complaints(self) -> list[str]:
        """Returns what the console has said since the last question: errors, and what the policy has blocked."""
        return [line["message"] for line in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]
