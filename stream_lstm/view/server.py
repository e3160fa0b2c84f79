"""The live page's server, on loopback alone."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.document import Document
from bokeh.server.server import Server
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import PeriodicCallback
from tornado.routing import Matcher, Rule
from tornado.web import RequestHandler

from ..errors import EndpointError
from ..serve.hosts import refusal
from .live import EVERY_MS, LivePage
from .watcher import Watcher

HOST = "127.0.0.1"

OTHER_HOSTS = r"(?!(localhost|127\.0\.0\.1)$).*"

MAX_PAGES = 16
"""Open at the same time: each is made when it is asked for, which takes a tenth of a second and
some megabytes, and is kept for 15 s after its browser has gone."""


class _OtherHost(RequestHandler):
    """Answers what asks for another host, whatever the path."""

    def initialize(self, port: int) -> None:
        """Take the port of the page."""
        self._port = port

    def prepare(self) -> None:
        """Refuse before anything is done."""
        self.set_status(403)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        told = refusal(self.request.host, f"{HOST}:{self._port}")
        self.finish(f"403 Forbidden: {told}\n")


class _TooMany(Matcher):
    """Matches requests for one more page than there may be."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        """Return the arguments of the handler, None where the page may be made."""
        too_many = request.path == "/" and len(self._server.get_sessions("/")) >= MAX_PAGES
        return {} if too_many else None


class _Busy(RequestHandler):
    """Answers a request for a page too many."""

    def prepare(self) -> None:
        """Refuse before anything is made."""
        self.set_status(503)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.set_header("Retry-After", "15")
        self.finish(
            f"503 Service Unavailable: {MAX_PAGES} pages are open; close one, and try again\n"
        )


def serve(
    watcher: Watcher,
    endpoint: str,
    port: int,
    ready: Callable[[str], object],
    tend: Callable[[], None] = lambda: None,
) -> None:
    """Serve the page until SIGINT or SIGTERM; main thread only.

    port: 0 lets the system choose. ready: takes the address of the page once it is there. tend:
    called once a second.

    Raises EndpointError where the port cannot be had.
    """

    def make(document: Document) -> None:
        LivePage(document, watcher, endpoint)

    try:
        server = Server(
            {"/": Application(FunctionHandler(make))},
            port=port,
            address=HOST,
            # pages of other sites that the same browser shows are not to read along
            allow_websocket_origin=[HOST, "localhost"],
            check_unused_sessions_milliseconds=EVERY_MS,
        )
    except OSError as error:
        raise EndpointError(
            f"cannot serve the live page at {HOST}:{port}: {error.strerror or error}; choose "
            "another port with --port"
        ) from None
    # nor are such whose name a foreign server points at this machine
    server._tornado.add_handlers(OTHER_HOSTS, [(r".*", _OtherHost, {"port": server.port})])
    server._tornado.default_router.rules.insert(0, Rule(_TooMany(server), _Busy))
    server.start()
    loop = server.io_loop
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.asyncio_loop.add_signal_handler(number, loop.stop)  # type: ignore[attr-defined]
    ready(f"http://{HOST}:{server.port}/")
    tending = PeriodicCallback(tend, EVERY_MS)
    tending.start()
    loop.start()
    tending.stop()
    server.stop()
