"""The live page in a real browser, of a real daemon on a paced feed, over real sockets."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from stream_lstm.events import NO_TIME
from stream_lstm.feed.protocol import Heartbeat, encode_heartbeat, encode_ticks

from .browser import SIZES, Tab, chromium

pytest.importorskip("bokeh", reason="bokeh is not installed")
pytestmark = pytest.mark.slow

PROGRAM = "from stream_lstm.cli.main import main; main()"
SMALL = ("--hidden", "4", "--window", "20", "--bptt", "10", "--feature", "x", "--learn")
PER_S = 200
PATIENCE_MS = 30_000
FIGURES = {
    "series", "probability", "accuracy", "loss", "evidence", "reliability", "updates", "latency",
}  # fmt: skip


class Feed:
    """Publishes a stream from a thread, and can lose ticks or fall silent."""

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        self.endpoint = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"
        self.lost = 0
        self.silent, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        random, seq, level, beat = np.random.default_rng(1), 1, 0.0, 0.0
        while not self._stop.wait(1 / PER_S):
            if self.silent.is_set():
                continue
            seq, self.lost = seq + self.lost, 0
            level = 0.98 * level + random.normal()
            x = np.array([level + random.normal()])
            session = "f00d"
            self._socket.send_multipart(
                encode_ticks("price", time.time_ns(), x, run_id=session, seq=seq)
            )
            seq += 1
            if time.monotonic() > beat + 0.5:
                beat = time.monotonic()
                told = Heartbeat("price", seq, session, NO_TIME)
                self._socket.send_multipart(encode_heartbeat(told))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._context.destroy(linger=0)


def start(*arguments: object) -> tuple[subprocess.Popen[str], str]:
    """A command, and what it says when it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "ready:" in line:
            return process, line
    raise AssertionError(f"{arguments[0]} ended: {''.join(said)}")


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.stderr.close()


class Scene:
    """A feed, a daemon with a store, a watcher, and a browser that shows it."""

    def __init__(self, folder: Path, browser: Any) -> None:
        self.folder, self.browser = folder, browser
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()

    def _start(self, stack: ExitStack) -> None:
        self.feed = Feed()
        stack.callback(self.feed.close)
        self.port = free_port()
        self.daemon = self.start_daemon()
        stack.callback(lambda: end(self.daemon))
        source = ("--connect", f"tcp://127.0.0.1:{self.port}", "--store", self.folder / "live.db")
        self.watch, line = start("watch", *source, "--port", 0)
        stack.callback(end, self.watch)
        self.url = re.search(r"http://\S+", line)[0]
        self.tab = self.open()

    def start_daemon(self) -> subprocess.Popen[str]:
        to = ("--publish", f"tcp://127.0.0.1:{self.port}", "--store", self.folder / "live.db")
        cache = ("--compile-cache", self.folder / "compiled")
        daemon, _ = start("run", "--connect", self.feed.endpoint, *to, *SMALL, *cache)
        return daemon

    def open(self, **options: Any) -> Tab:
        tab = Tab(self.browser, **options)
        tab.open(self.url)
        return tab

    def picture(self, name: str, tab: Tab) -> None:
        """Keep a picture, in the folder PICTURES where somebody wants to look."""
        folder = Path(os.environ.get("PICTURES", self.folder))
        tab.page.screenshot(path=folder / f"{name}.png", full_page=True)

    def wait(self, what: str) -> None:
        """Wait for a text on the page."""
        self.tab.page.get_by_text(what).first.wait_for(timeout=PATIENCE_MS)

    def wait_for_figures(self) -> None:
        """Wait until every figure has data."""
        for name in sorted(FIGURES):
            self.tab.page.wait_for_function(
                """(name) => Bokeh.documents[0].roots().find((root) => root.name == name)
                .renderers.some((one) => one.data_source.data.x?.length
                                      || one.data_source.data.left?.length)""",
                arg=name,
                timeout=PATIENCE_MS,
            )

    def close(self) -> None:
        self.tab.close()
        self._stack.close()


def free_port() -> int:
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        return socket.bind_to_random_port("tcp://127.0.0.1")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    with chromium() as browser:
        shown = Scene(tmp_path_factory.mktemp("live"), browser)
        yield shown
        shown.close()


def last_x(scene: Scene) -> float:
    return scene.tab.page.evaluate(
        "() => Bokeh.documents[0].get_model_by_name('probability').renderers"
        ".map((one) => one.data_source.data.x?.at(-1) ?? 0).reduce((a, b) => Math.max(a, b))"
    )


def test_every_figure_has_data(scene):
    scene.wait_for_figures()
    assert set(scene.tab.drawn()) == FIGURES
    scene.tab.page.wait_for_function(
        "() => Bokeh.documents[0].roots().filter((root) => root.type == 'Figure')"
        ".every((root) => root.visible && root.inner_width > 150 && root.inner_height > 100)",
        timeout=PATIENCE_MS,
    )
    scene.wait("Live; the last prediction came")


def test_it_changes_while_the_daemon_runs(scene):
    before = last_x(scene)
    scene.tab.page.wait_for_function(
        "(x) => Bokeh.documents[0].get_model_by_name('probability').renderers"
        ".some((one) => (one.data_source.data.x?.at(-1) ?? 0) > x)",
        arg=before,
        timeout=PATIENCE_MS,
    )


def test_lost_ticks_are_shown_as_a_band(scene):
    scene.feed.lost = 30
    scene.wait("30 ticks missed")
    wait_for_bands(scene, 1)


def wait_for_bands(scene: Scene, count: int) -> None:
    scene.tab.page.wait_for_function(
        "(count) => Bokeh.documents[0].get_model_by_name('accuracy').renderers"
        ".some((one) => one.data_source.data.x0?.length >= count)",
        arg=count,
        timeout=PATIENCE_MS,
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_it_fits_the_window_in_both_themes(scene, size, scheme):
    tab = scene.open(size=size, scheme=scheme)
    tab.page.wait_for_function(
        "() => Bokeh.documents[0].get_model_by_name('accuracy').inner_width > 150"
    )
    scene.picture(f"live-{size}-{scheme}", tab)
    assert not tab.overflows()
    assert tab.errors == []
    tab.close()


def test_a_silent_feed_is_said_and_shown(scene):
    scene.feed.silent.set()
    scene.wait("its feed is silent: no data since")
    wait_for_bands(scene, 2)
    scene.picture("live-silent", scene.tab)
    scene.feed.silent.clear()
    scene.wait("Live; the last prediction came")


def test_a_daemon_that_is_gone_is_said_and_one_that_comes_back_goes_on(scene):
    scene.daemon.kill()
    scene.daemon.wait()
    scene.daemon.stderr.close()
    scene.wait("No data since")
    before = last_x(scene)
    scene.daemon = scene.start_daemon()
    scene.wait("Live; the last prediction came")
    assert last_x(scene) > before


def test_nothing_went_wrong_and_nothing_left_the_machine(scene):
    assert scene.tab.errors == []
    host = scene.url.removeprefix("http://")
    allowed = (f"http://{host}", f"ws://{host}", "data:", "blob:")
    assert [url for url in scene.tab.requests if not url.startswith(allowed)] == []
