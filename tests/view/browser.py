"""A headless Chromium for tests, where there is one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")

SIZES = {"desk": (1280, 800), "phone": (390, 844)}

DRAWN = """() => Object.fromEntries(Bokeh.documents[0].roots()
  .filter((root) => root.type == "Figure")
  .map((root) => [root.name, root.renderers
    .map((one) => Object.values(one.data_source.data)[0]?.length ?? 0)
    .reduce((a, b) => a + b, 0)]))"""
"""How many points each figure has, by its name."""


def path_of_chromium() -> str:
    """Where a browser is; skips where there is none, or nothing to drive it."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    return path


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; skips where there is none."""
    path = path_of_chromium()
    import playwright.sync_api as api

    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """A page that notes what goes wrong in it, and whom it asks for anything."""

    def __init__(
        self, browser: Any, *, size: str = "desk", scheme: str = "light", offline: bool = False
    ) -> None:
        width, height = SIZES[size]
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, offline=offline
        )
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page = self.context.new_page()
        self.page.on("console", self._told)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda socket: self.requests.append(socket.url))

    def _told(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def open(self, url: str) -> None:
        self.page.goto(url)
        self.page.wait_for_function("() => window.Bokeh && Bokeh.documents.length > 0")
        self.page.wait_for_function(
            "() => document.querySelectorAll('[data-root-id] > *').length > 3"
        )

    def drawn(self) -> dict[str, int]:
        return self.page.evaluate(DRAWN)

    def overflows(self) -> bool:
        """Whether the page is wider than the window."""
        return self.page.evaluate(
            "() => document.documentElement.scrollWidth > document.documentElement.clientWidth"
        )

    def text(self) -> str:
        """What a reader sees, in the shadow of widgets too."""
        return self.page.locator("body").inner_text()

    def close(self) -> None:
        self.context.close()
