"""`stream-lstm watch`: a live page in the browser of what a daemon publishes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputMissingError
from ..schema import SecurityConfig
from .peers import PeerLog
from .process import say, warn


def command(
    *,
    connect: Annotated[
        str, typer.Option(metavar="ENDPOINT", help="Where the daemon publishes (its --publish).")
    ],
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The daemon's --store: begin with what it holds, and show the series, updates "
            "and lost ticks, which are not published.",
        ),
    ] = None,
    streams: Annotated[
        list[str] | None,
        typer.Option("--stream", metavar="NAME", help="Show this stream; may be repeated."),
    ] = None,
    port: Annotated[
        int,
        typer.Option(
            min=0,
            max=65_535,
            metavar="N",
            help="Port of the page, on loopback; 0 takes a free one.",
        ),
    ] = 5006,
    curve_dir: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Keys, where the daemon has --curve-dir."),
    ] = None,
) -> None:
    """Show a running daemon in the browser: predictions, scores, evidence, latency, learning.

    The daemon pays nothing for it, and may come and go. Needs the extra `view`. Ctrl-C ends it.

    Example: stream-lstm watch --connect tcp://127.0.0.1:5556 --store quotes.db
    """
    from ..interop.extras import need_for

    need_for("the live page", "bokeh", "view")
    security = SecurityConfig(curve_dir=curve_dir)
    watch(connect, store, tuple(streams or ()), port, security, _ready)


def watch(
    endpoint: str,
    store: Path | None,
    streams: tuple[str, ...],
    port: int,
    config: SecurityConfig,
    ready: Callable[[str], object],
) -> None:
    """Serve the page until a signal ends it; ready: takes its address."""
    from ..feed.predictions import PredictionSubscriber
    from ..feed.security import Security
    from ..view.history import History
    from ..view.live import serve
    from ..view.watcher import Watcher

    security = Security(config)
    security.check_connect(endpoint)
    if store is not None:
        if not store.exists():
            raise InputMissingError(
                f"no such store: {store}; run --store makes it, and watch can begin once that is "
                "ready"
            )
        History(store).close()  # what is wrong with it is told before anything is opened
    subscriber = PredictionSubscriber(endpoint, streams=streams, security=security)
    peers = PeerLog(security, warn)
    with Watcher(subscriber, endpoint, store, streams) as watcher:
        serve(watcher, endpoint, port, ready, peers.tend)


def _ready(address: str) -> None:
    say(f"ready: open {address} in a browser; Ctrl-C ends it", err=True)
