"""A page in headless Chromium, driven by selenium, with what it asked the network for and said on its console."""

import json
import shutil
import time

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
MISSING = (
    "the page is tried in a browser only where Chromium and chromedriver are: apt-get install chromium chromium-driver"
)


def opened(width=1280, height=900):
    """A browser, of which there should be one: starting it takes a second or two."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    driver = shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip(MISSING)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return Browser(webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)), width, height)


class Browser:
    """What the tests do with a page."""

    def __init__(self, driver, width, height):
        self.driver = driver
        self.resize(width, height)

    def resize(self, width, height=900):
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def prefers(self, **features):
        named = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": named})

    def open(self, path):
        """Seconds until it is drawn."""
        began = time.perf_counter()
        self.driver.get(path.as_uri())
        self.wait(lambda: self.run("return document.body.dataset.shown"))
        return time.perf_counter() - began

    def wait(self, true, seconds=20):
        end = time.monotonic() + seconds
        while not (found := true()):
            assert time.monotonic() < end, "the page does not come to an end"
            time.sleep(0.01)
        return found

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def settle(self):
        """When everything that was asked for is drawn."""
        self.wait(lambda: self.run("return String(turn) === document.body.dataset.shown"))

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def set(self, name, value):
        """A control, as its event says that a hand changed it."""
        self.run(
            "const one = document.getElementById(arguments[0]); one.value = arguments[1];"
            "one.dispatchEvent(new Event('input', {bubbles: true}))",
            name, value,
        )  # fmt: skip
        self.settle()

    def table(self, name):
        """The table twin of a chart: rows of texts."""
        return self.run(
            "const twin = document.getElementById(arguments[0] + '-table');"
            "if (!twin.open) { twin.open = true; twins[arguments[0]](); }"
            "return [...twin.querySelectorAll('tbody tr')].map((row) => [...row.cells].map((one) => one.textContent))",
            name,
        )

    def picture(self):
        """All that is drawn."""
        return self.run(
            "return ['map', 'curve', 'spread', 'gamma', 'regions'].map((id) => document.getElementById(id).innerHTML)"
        )

    def errors(self):
        return [entry for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def requests(self):
        """Addresses that were asked for, other than files and what the page itself holds."""
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]

    def close(self):
        self.driver.quit()
