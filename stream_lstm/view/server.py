"""The live page's server, on loopback alone."""

from __future__ import annotations

import signal
from collections.abc import Callable

from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.document import Document
from bokeh.server.server import Server
from tornado.ioloop import PeriodicCallback
from tornado.web import RequestHandler

from ..errors import EndpointError
from ..serve.hosts import refusal
from .live import EVERY_MS, LivePage
from .watcher import Watcher

HOST = "127.0.0.1"

OTHER_HOSTS = r"(?!(localhost|127\.0\.0\.1)$).*"


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
        )
    except OSError as error:
        raise EndpointError(
            f"cannot serve the live page at {HOST}:{port}: {error.strerror or error}; choose "
            "another port with --port"
        ) from None
    # nor are such whose name a foreign server points at this machine
    server._tornado.add_handlers(OTHER_HOSTS, [(r".*", _OtherHost, {"port": server.port})])
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
