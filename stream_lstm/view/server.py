"""The live page's server, on loopback alone."""

from __future__ import annotations

import signal
from collections.abc import Callable

from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.document import Document
from bokeh.server.server import Server
from tornado.ioloop import PeriodicCallback

from ..errors import EndpointError
from .live import EVERY_MS, LivePage
from .watcher import Watcher

HOST = "127.0.0.1"


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
