"""Takes the pictures of the page that the documents show, from a real browser and a model that you name.

    python -m tools.page_pictures bundles/demo

Needs Debian's chromium and chromium-driver. Pictures have 128 colours: they are small, and look the same.
"""

import argparse
import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

IMAGES = Path(__file__).parents[1] / "docs/images"
SIZE = (1180, 860)
_SECONDS = 30
_FIELDS = [["write-seed", "value", "4"], ["write-text", "rows", 5]]
_WRITTEN = "return document.querySelectorAll('#continuations .quiet').length == 3 && [...document.querySelectorAll("
_WRITTEN += "'#continuations .quiet')].every((one) => one.textContent.startsWith('as long'))"


@contextlib.contextmanager
def serving(bundle: Path) -> Iterator[str]:
    """Yields the page's address."""
    command = [sys.executable, "-m", "carousel", "serve", str(bundle), "--set", "inspect=true"]
    command += ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--openai", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            yield next(line for line in server.stdout if line.startswith("the page: ")).split()[-1]
        finally:
            server.terminate()


@contextlib.contextmanager
def browsing() -> Iterator[Any]:
    options = Options()
    options.binary_location = str(shutil.which("chromium"))
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    service = Service(str(shutil.which("chromedriver")), log_output=os.devnull)
    driver = webdriver.Chrome(options=options, service=service)
    size = {"width": SIZE[0], "height": SIZE[1], "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        yield driver
    finally:
        driver.quit()


def take(driver: Any, url: str, name: str, prepare: Callable[[Any, Any], None]) -> None:
    """Opens a part, prepares what it shows, and writes the picture."""
    driver.get("about:blank")
    driver.get(f"{url}#{name}")
    prepare(driver, WebDriverWait(driver, _SECONDS))
    picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB").quantize(128)
    picture.save(IMAGES / f"page-{name}.png", optimize=True)


def write(driver: Any, wait: Any) -> None:
    wait.until(lambda _: driver.find_elements(By.CSS_SELECTOR, "#next button"))
    driver.execute_script(
        "for (const [id, key, value] of arguments) document.getElementById(id)[key] = value", *_FIELDS
    )
    driver.find_element(By.ID, "write-go").click()
    wait.until(lambda _: driver.execute_script(_WRITTEN))
    driver.execute_script("scrollTo(0, 0)")


def inside(driver: Any, wait: Any) -> None:
    """A unit that switches shows more than one that flickers."""
    wait.until(lambda _: driver.find_elements(By.CSS_SELECTOR, "#unit-text span"))
    tensor = driver.find_elements(By.CSS_SELECTOR, "#inside-tensor option")[-1]
    tensor.click()
    driver.find_element(By.CSS_SELECTOR, "#inside-order option[value=switching]").click()
    driver.execute_script("document.activeElement.blur()")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    with serving(parser.parse_args().bundle) as url, browsing() as driver:
        for name, prepare in (("write", write), ("inside", inside)):
            take(driver, url, name, prepare)


if __name__ == "__main__":
    main()
