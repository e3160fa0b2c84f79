"""`--watch` of `run` and `demo`: the live page in a process of its own, gone with the command."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from ..config import Config
from .feed_process import FeedProcess

WatchOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--watch", help="Serve a live page for the browser; its address is on standard error."
    ),
]


def need_page() -> None:
    """Raise UsageError with the install line where the extra is missing."""
    from ..interop.extras import need_for

    need_for("the live page", "bokeh", "view")


def page_process(endpoint: str, config: Config) -> FeedProcess:
    """Start the page of what is published at `endpoint`; a context manager that ends it."""
    given = {
        "--connect": endpoint,
        "--store": config.store.store,
        "--curve-dir": config.security.curve_dir,
    }
    words = [word for pair in given.items() if pair[1] is not None for word in pair]
    return FeedProcess("stream_lstm.view.live", *map(str, words), what="live page")
