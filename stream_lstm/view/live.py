"""The live page: a document for each browser, filled from a watcher's tracks, on loopback only.

As a process of its own it prints the page's address as its only line, and ends when its standard
input is closed.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.document import Document
from bokeh.models import InlineStyleSheet
from bokeh.models.widgets import Div, Select
from bokeh.server.server import Server
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import PeriodicCallback
from tornado.routing import Matcher, Rule
from tornado.web import RequestHandler

from .. import __version__
from ..errors import EndpointError
from ..feed.demo_feed import leave_with_parent
from ..feed.predictions import PredictionSubscriber
from ..feed.security import Security
from ..platform import STOP_SIGNALS
from ..quoting import label
from ..schema import SecurityConfig
from ..serve.web import refusal
from .figures import panels
from .report import card, facts_css, head_html, template
from .status import pulse, script
from .track import Track
from .watcher import Watcher
from .words import facts, verdict

EVERY_MS = 1000

NO_STREAM = "no stream yet"

CHOOSER = """
:host label { color: var(--faint); font-size: 12px; }
:host select.bk-input {
  background-color: var(--card); color: var(--ink); border: 1px solid var(--edge); height: 34px;
  background-image: url('data:image/svg+xml;utf8,\
<svg viewBox="0 0 25 20" xmlns="http://www.w3.org/2000/svg">\
<path d="M 0,0 25,0 12.5,20 Z" fill="gray" /></svg>');
}
:host option { background-color: var(--card); color: var(--ink); }
"""


class LivePage:
    """The view of one browser.

    document: to fill. watcher: has the tracks. endpoint: shown in the page.
    """

    def __init__(self, document: Document, watcher: Watcher, endpoint: str) -> None:
        self._watcher = watcher
        self._shown: Any = None
        self._streams: dict[str, str] = {}  # by their labels on the page
        self._head = Div(
            name="head",
            sizing_mode="stretch_width",
            margin=(10, 0, 0, 0),
            stylesheets=[InlineStyleSheet(css=facts_css())],
        )
        self._chooser = Select(
            name="chooser",
            title="Stream",
            width=280,
            margin=0,
            options=_options([NO_STREAM]),
            value=NO_STREAM,
            stylesheets=[InlineStyleSheet(css=CHOOSER)],
        )
        self._panels = panels()
        blank = Track("")
        self._cards = [card(panel, panel.name, blank) for panel in self._panels]
        self._notes = [
            Div(name=f"note-{p.name}", text="", margin=(6, 0, 0, 0)) for p in self._panels
        ]
        self._pulse = Div(name="pulse", visible=False)
        self.refresh()
        self._chooser.on_change("value", self._choose)
        for root in (
            self._pulse,
            self._chooser,
            self._head,
            *self._notes,
            *(p.figure for p in self._panels),
        ):
            document.add_root(root)
        document.title = "stream-lstm"
        document.template = template()
        document.template_variables.update(
            live=True,
            subtitle=f"Live predictions from {endpoint}.",
            runs=[{"panels": self._cards}],
            comparison=None,
            facts_css=facts_css(),
            status_script=script(),
            footer=f"stream-lstm {__version__}. This page puts no load on the daemon.",
        )
        document.add_periodic_callback(self.refresh, EVERY_MS)

    def _choose(self, attr: str, old: str, new: str) -> None:  # noqa: ARG002 - Bokeh gives them
        self.refresh()

    def refresh(self) -> None:
        """Show the present state."""
        with self._watcher.lock:
            names = sorted(self._watcher.tracks)
        self._streams = {label(name): name for name in names}
        shown = list(self._streams)
        if names and shown != self._chooser.options:
            self._chooser.options = _options(shown)
            if self._chooser.value not in shown:
                self._chooser.value = shown[0]
        with self._watcher.lock:
            stream = self._streams.get(str(self._chooser.value), str(self._chooser.value))
            track = self._watcher.tracks.get(stream) or Track(stream)
            status = self._watcher.status(stream)
            self._pulse.tags = [pulse(status, label(stream), time.time_ns())]
            text = head_html(_sentence(verdict(track)), facts(track))
            if self._head.text != text:
                self._head.text = text
            state = _state(track)
            if state != self._shown:
                self._shown = state
                self._fill(track)

    def _fill(self, track: Track) -> None:
        for panel, note in zip(self._panels, self._notes, strict=True):
            has_data = panel.has_data(track)
            if has_data:
                panel.fill(track)
            # a note replaces a figure without data
            panel.figure.visible = has_data
            note.text = panel.note(track)


def _state(track: Track) -> tuple[Any, ...]:
    """Return a value that changes whenever a figure does."""
    counts = track.predictions, track.scores.labels, track.updates, track.refused, track.rollbacks
    return (id(track), *counts, len(track.targets().n), *track.intervals)


def _options(names: list[str]) -> list[Any]:
    return list(names)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


HOST = "127.0.0.1"

OTHER_HOSTS = r"(?!(localhost|127\.0\.0\.1)$).*"

MAX_PAGES = 16
"""Open at the same time: each takes a tenth of a second and some megabytes, and stays for 15 s
after its browser has gone."""


class _Refusal(RequestHandler):
    """Refuses a request, whatever its method and path, before anything is done."""

    def initialize(self, status: int, reason: Callable[[str], str]) -> None:
        """Take the status and what returns the reason for a host."""
        self._refusal = status, reason

    def prepare(self) -> None:
        """Refuse."""
        status, reason = self._refusal
        self.set_status(status)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            self.set_header("Retry-After", "15")
        self.finish(f"{status} {HTTPStatus(status).phrase}: {reason(self.request.host)}\n")


class _TooMany(Matcher):
    """Matches requests for a page above the limit."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        """Return the arguments of the handler, None below the limit."""
        too_many = request.path == "/" and len(self._server.get_sessions("/")) >= MAX_PAGES
        return {} if too_many else None


def serve(
    watcher: Watcher,
    endpoint: str,
    port: int,
    ready: Callable[[str], object],
    tend: Callable[[], None] = lambda: None,
) -> None:
    """Serve the page until SIGINT or SIGTERM; main thread only.

    port: 0 for a free one. ready: receives the address of the page. tend: called once a second.

    Raises EndpointError for a port that is not free.
    """

    def make(document: Document) -> None:
        LivePage(document, watcher, endpoint)

    try:
        server = Server(
            {"/": Application(FunctionHandler(make))},
            port=port,
            address=HOST,
            # pages of other sites in the same browser must not connect
            allow_websocket_origin=[HOST, "localhost"],
            check_unused_sessions_milliseconds=EVERY_MS,
        )
    except OSError as error:
        raise EndpointError(
            f"cannot serve the live page at {HOST}:{port}: {error.strerror or error}; choose "
            "another port with --port"
        ) from None
    # nor may sites whose name a foreign server points at this machine
    other = {"status": 403, "reason": lambda host: refusal(host, f"{HOST}:{server.port}")}
    server._tornado.add_handlers(OTHER_HOSTS, [(r".*", _Refusal, other)])
    busy = {"status": 503, "reason": lambda _: f"{MAX_PAGES} pages are open; close one first"}
    server._tornado.default_router.rules.insert(0, Rule(_TooMany(server), _Refusal, busy))
    server.start()
    loop = server.io_loop
    for number in STOP_SIGNALS:
        try:
            loop.asyncio_loop.add_signal_handler(number, loop.stop)  # type: ignore[attr-defined]
        except NotImplementedError:  # on Windows
            signal.set_wakeup_fd(-1)
            signal.signal(number, lambda *_: loop.add_callback_from_signal(loop.stop))
    ready(f"http://{HOST}:{server.port}/")
    tending = PeriodicCallback(tend, EVERY_MS)
    tending.start()
    loop.start()
    tending.stop()
    server.stop()


def main() -> None:
    """Serve the page until a signal, or until the parent ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connect", required=True)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--curve-dir")
    given = parser.parse_args()
    leave_with_parent()
    security = Security(SecurityConfig(curve_dir=given.curve_dir))
    subscriber = PredictionSubscriber(given.connect, security=security)
    with Watcher(subscriber, given.connect, given.store) as watcher:
        serve(watcher, given.connect, 0, lambda address: print(address, flush=True))  # noqa: T201


if __name__ == "__main__":
    main()
