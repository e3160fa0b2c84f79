"""The status in a real browser: the page itself finds that its server or the daemon is gone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stream_lstm.events import Prediction
from stream_lstm.feed.predictions import PredictionPublisher

from .browser import Tab, chromium
from .test_live_page import PATIENCE_MS, end, start

pytest.importorskip("bokeh", reason="bokeh is not installed")
pytestmark = pytest.mark.slow

RED = "rgb(211, 47, 47)"
GREY = "rgb(138, 146, 156)"
GREEN = "rgb(0, 158, 115)"
AMBER = "rgb(230, 159, 0)"


class Page:
    """A page of `watch` whose daemon is a publisher in this process."""

    def __init__(self, browser: Any) -> None:
        self.publisher = PredictionPublisher("tcp://127.0.0.1:*")
        self.watch, line = start("watch", "--connect", self.publisher.endpoint, "--port", 0)
        self.url = next(word for word in line.split() if word.startswith("http://"))
        self.tab = Tab(browser)
        self.n = 0

    def predict(self) -> None:
        self.n += 10
        self.publisher.publish(Prediction("price<b>", self.n, time.time_ns(), 0.6))
        self.beat("live")

    def beat(self, status: str) -> None:
        self.publisher.heartbeat("price<b>", self.n + 1, status=status)

    def wait(
        self, name: str, work: Callable[[], None] = lambda: None, text: str = ""
    ) -> tuple[str, str, str]:
        """Wait for a status and a text of it, doing `work` meanwhile.

        Return the colour, the text and the title of one moment: on a busy machine the next one
        differs.
        """
        seen: list[str] = []
        for _ in range(PATIENCE_MS // 100):
            work()
            seen = self.tab.page.evaluate(SEEN)
            if seen[0] == name and text in seen[2]:
                return seen[1], seen[2], seen[3]
            self.tab.page.wait_for_timeout(100)
        raise AssertionError(seen)


SEEN = """() => {
  const place = document.getElementById("status")
  return [document.documentElement.dataset.status, getComputedStyle(place).borderLeftColor,
          place.textContent, document.title]
}"""


@pytest.fixture
def page() -> Iterator[Page]:
    with chromium() as browser:
        made = Page(browser)
        yield made
        made.tab.close()
        made.watch.send_signal(signal.SIGCONT)
        if made.watch.poll() is None:
            end(made.watch)
        made.watch.stderr.close()
        made.publisher.close()


def test_the_colours_of_a_stream(page: Page) -> None:
    page.predict()
    page.tab.open(page.url)
    colour, text, title = page.wait("live", page.predict)
    assert (colour, title) == (GREEN, "● live: price<b> - stream-lstm")
    assert text.startswith("Live; the last prediction came")
    late = "this stream's feed is late; the last prediction came at"
    assert page.wait("late", lambda: page.beat("late"), late)[0] == AMBER
    colour, text, title = page.wait("ended", lambda: page.beat("ended"))
    assert (colour, title) == (GREY, "■ ended: price<b> - stream-lstm")
    assert text.startswith("The feed has ended; the last prediction came at")
    page.wait("live", page.predict)
    assert page.wait("lost", text="is not heard")[0] == RED
    page.wait("live", page.predict)
    # Bokeh warns of a figure that has no range yet
    assert [one for one in page.tab.errors if "could not set initial ranges" not in one] == []


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSTOP"])
def test_the_browser_finds_that_the_server_is_gone(page: Page, name: str) -> None:
    number = signal.Signals[name]
    page.predict()
    page.tab.open(page.url)
    page.wait("live", page.predict)
    page.watch.send_signal(number)
    colour, text, title = page.wait("lost", page.predict, "This page has heard nothing for ")
    assert (colour, title) == (RED, "✕ lost: price<b> - stream-lstm")
    assert ": the daemon or the page's server is gone." in text
    assert "Last status: " in text
    if number == signal.SIGSTOP:
        page.watch.send_signal(signal.SIGCONT)
        page.wait("live", page.predict)
