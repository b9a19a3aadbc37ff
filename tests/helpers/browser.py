"""A page in headless Chromium, driven by Playwright, with what it asked a network for and said on its console."""

import shutil

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
MISSING = "NOT RUN: the page is tried in a browser only where Chromium is (Debian: apt-get install chromium)"


class Browser:
    """What the tests do with a page. There should be one: starting it takes seconds."""

    def __init__(self):
        program = next(filter(None, map(shutil.which, PROGRAMS)), None)
        if not program:
            pytest.skip(MISSING)
        from playwright.sync_api import sync_playwright

        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        self.page = self._browser.new_page()
        self.page.set_default_timeout(120_000)  # a machine may be busy
        self.errors, self.asked = [], []
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def close(self):
        self._browser.close()
        self._playwright.stop()

    def fresh(self):
        """As nobody has used it yet."""
        self.page.goto("about:blank")
        self.resize(1280)
        self.page.emulate_media(color_scheme="light", reduced_motion="no-preference")
        self.errors.clear(), self.asked.clear()

    @property
    def elsewhere(self):
        """Addresses that were asked for, other than files and what the page itself holds."""
        return [url for url in self.asked if not url.startswith(("file:", "data:", "blob:", "about:"))]

    def resize(self, width):
        self.page.set_viewport_size({"width": width, "height": 900})

    def open(self, path):
        """And wait until it is drawn."""
        self.page.goto(path.as_uri())
        self.page.wait_for_function("document.body.dataset.shown")

    def settle(self):
        """When everything that was asked for is drawn."""
        self.page.wait_for_function("String(turn) === document.body.dataset.shown")

    def run(self, script, *arguments):
        """What an expression, or a body with `return`, gives; `arguments` are its own."""
        body = script if "return" in script else f"return {script}"
        return self.page.evaluate(f"(given) => (function () {{ {body} }}).apply(null, given)", list(arguments))

    def text(self, selector):
        return self.run("document.querySelector(arguments[0]).textContent", selector)

    def set(self, name, value):
        """A control, as its event says that a hand changed it."""
        self.run(
            "const one = document.getElementById(arguments[0]); one.value = arguments[1];"
            "return one.dispatchEvent(new Event('input', {bubbles: true}))",
            name, str(value),
        )  # fmt: skip
        self.settle()

    def choose(self, number):
        """A sheet, by its button in the list."""
        self.page.click(f'[data-sheet="{number}"]')
        self.settle()

    def cells(self):
        """Of the map, row by row."""
        return self.page.query_selector_all("#map .mark-rect.role-mark path")

    def hover(self, element):
        """What is said of a mark under the mouse, which is beside its middle, where a hatching may lie."""
        self.run("document.getElementById('tip').textContent = ''; return 0")
        element.hover(position={"x": 6, "y": 5})
        self.page.wait_for_function("document.getElementById('tip').textContent")
        return self.text("#tip")

    def click(self, element):
        element.click(position={"x": 6, "y": 5})
        self.settle()

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)
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
        return self.run("['map', 'curve', 'spread', 'gamma', 'regions'].map((id) => byId(id).innerHTML)")
