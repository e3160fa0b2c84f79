"""The pages of a daemon: /metrics, /livez and /readyz, and the server that gives them.

It stands before the daemon is made, so that a port that is taken is told of before anything is
compiled, and an orchestrator gets an answer while it starts. Whatever goes wrong here is counted
and told of, and no tick waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from ..closing import Closing
from ..quoting import json_line
from ..tables import ServeConfig
from . import families
from .health import Health, Verdict
from .switches import quick_switches
from .timings import Timings
from .web import Page, WebServer, bind

if TYPE_CHECKING:
    from .daemon import Daemon

HOME = b"stream-lstm: /metrics for Prometheus, /livez, /readyz\n"


class Monitor(Closing):
    """Serves the pages of a daemon; a context manager.

    config: the table `serve`, with an address. insecure: other machines may reach it. dropped:
    how many log lines were dropped. say: takes a line for people. clock: seconds, monotonic, as
    the daemon's.

    `address` is the actual one. Raises what `web.bind` raises.
    """

    def __init__(
        self,
        config: ServeConfig,
        *,
        insecure: bool = False,
        dropped: Callable[[], int] = lambda: 0,
        say: Callable[[str], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert config.metrics is not None
        self.health = Health(config.live_after, clock)
        self.timings = Timings()
        self.errors = self.scrapes = 0
        self._clock, self._dropped, self._say = clock, dropped, say
        self._daemon: Daemon | None = None
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        self._stack = ExitStack()
        listener = bind(config.metrics, insecure=insecure)
        self._stack.enter_context(quick_switches())
        self._server = WebServer(listener, self.respond, host=config.metrics, failed=self._failed)
        self._stack.enter_context(self._server)
        self.address = self._server.address

    def attend(self, daemon: Daemon) -> None:
        """Tell of a daemon from now on, which is about to run."""
        self._stack.enter_context(self.timings)
        self.timings.attach(daemon, self._clock)
        self.health.attend(daemon)
        self._daemon = daemon

    # ---- in the server's thread -------------------------------------------------------

    def respond(self, path: str, headers: Mapping[str, str]) -> Page | None:
        """Return the page of a path, None where there is none."""
        match path:
            case "/metrics":
                encode, kind = choose_encoder(headers.get("accept", ""))
                page = Page(200, kind, encode(self._registry))
                self.scrapes += 1
                return page
            case "/livez":
                return _page(self.health.live())
            case "/readyz":
                return _page(self.health.ready())
            case "/":
                return Page(200, "text/plain; charset=utf-8", HOME)
        return None

    def collect(self) -> Iterator[Metric]:
        """Yield all families, as they are now."""
        yield from families.about()
        yield from families.health(self.health)
        yield families.counter("scrapes", "Scrapes that were answered.", self.scrapes)
        yield families.counter("scrape_errors", "Pages that could not be made.", self.errors)
        yield families.counter("log_lines_dropped", "Log lines dropped.", self._dropped())
        daemon = self._daemon
        if daemon is None:
            return
        for part in (families.counts, families.feed, families.store, families.streams):
            yield from part(daemon)
        yield from families.times(self.timings)

    def _failed(self, error: Exception) -> None:
        self.errors += 1
        self._say(f"a page of {self.address} could not be made: {error!r}")

    # ---- the end ----------------------------------------------------------------------

    def close(self) -> None:
        """Stop serving."""
        self._stack.close()


def _page(verdict: Verdict) -> Page:
    body = json_line(verdict.told).encode() + b"\n"
    return Page(200 if verdict.well else 503, "application/json", body)
