"""`stream-lstm demo`: the whole service against a feed of its own, in half a minute.

Another process publishes a seeded series over ZeroMQ on loopback. The daemon, the same that
`stream-lstm run` starts, subscribes to it, predicts, learns and publishes. What it could have
known at best is computed afterwards from the seed. Nothing leaves the machine and no file is
read or written, but for the store that `--watch` shows, which is gone at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import Config, build
from ..events import Input, Notice, Output, Score
from ..feed.synthetic import HiddenLevel
from ..serve.logs import Pipe, RefusalLog
from ..serve.signals import StopSwitch, stop_on_signals
from .feed_process import FeedProcess
from .input_file import JsonOption
from .live_results import LiveResults
from .live_table import REFRESH_S, LiveTable
from .process import say, say_json
from .watch_option import WatchOption, need_page, page_process

if TYPE_CHECKING:
    from ..store.store import Store

SPEED = 2000.0
"""Elements a second: a fifth of what two slow cores keep up with."""

MAX_SPEED, MAX_SECONDS = 20_000.0, 600.0
"""Together 12 million elements, whose scores are kept in memory for the report."""

OVERTIME_S = 5.0
"""A machine that cannot keep up is let off this long after the end of the feed."""


def command(
    seconds: Annotated[
        float, typer.Option(min=0.1, max=MAX_SECONDS, metavar="S", help="How long the feed runs.")
    ] = 25.0,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the series.")] = 1,
    speed: Annotated[
        float, typer.Option(min=1, max=MAX_SPEED, metavar="N", help="Elements a second.")
    ] = SPEED,
    watch: WatchOption = False,
    as_json: JsonOption = False,
) -> None:
    """See it work in half a minute: no file, no network, nothing to set.

    Ctrl-C ends it at any time, with the figures so far.
    """
    if watch:
        need_page()
    summary = _demo(seconds, seed, speed, watch)
    if as_json:
        say_json(summary)
        return
    from .demo_report import lines

    for line in lines(summary["labels"], summary["forecasters"]):
        say(line)


def configuration(endpoint: str, store: Path | None = None) -> Config:
    """Return the demo's configuration: the defaults, learning, at loopback endpoints."""
    return build(
        {
            "features": HiddenLevel.columns,
            "learn": True,
            "connect": (endpoint,),
            "publish": "tcp://127.0.0.1:*",
            "idle_timeout": 30.0,
            "store": None if store is None else str(store),
        }
    )


def _demo(seconds: float, seed: int, speed: float, watch: bool) -> dict[str, Any]:
    """Run the demo and return what it found."""
    scores: list[Score] = []

    def keep(event: Input | Output | Notice) -> None:
        if isinstance(event, Score):
            scores.append(event)

    with ExitStack() as stack:
        stop = stack.enter_context(StopSwitch())
        take_signals = stack.enter_context(stop_on_signals(stop, later=True))
        count = max(round(seconds * speed), 1)
        feed = stack.enter_context(FeedProcess.demo(seed=seed, speed=speed, count=count))
        results = stack.enter_context(LiveResults())
        pipe = stack.enter_context(Pipe())
        table = stack.enter_context(LiveTable(time.monotonic, pipe))
        pipe.put(_opening(seconds, speed, seed))
        refused = RefusalLog(pipe.put, time.monotonic)

        from ..serve.daemon import Daemon  # JAX is imported while the feed starts

        path, store = None, None
        if watch:  # the page shows the series and the updates, which a store alone has
            folder = stack.enter_context(TemporaryDirectory(prefix="stream-lstm-"))
            path = Path(folder) / "demo.db"
        config = configuration(feed.endpoint(), path)
        if path is not None:
            store = stack.enter_context(_store(path, config, pipe.put))
        observers = (results, keep, table, refused)
        daemon = stack.enter_context(
            Daemon(config, HiddenLevel.columns, stop=stop, observers=observers, store=store)
        )
        daemon.every(REFRESH_S, table.refresh)
        daemon.every(seconds + OVERTIME_S, stop.set)
        assert daemon.publisher is not None
        take_signals()
        pipe.put(
            f"ready: ticks come from process {feed.pid} at {config.feed.connect[0]}, predictions "
            f"go out at {daemon.publisher.endpoint}"
        )
        if watch:
            page = stack.enter_context(page_process(daemon.publisher.endpoint, config))
            pipe.put(f"live page: {page.endpoint()}")
        table.show(daemon.session)
        start = time.perf_counter()
        daemon.run(until_end=True)
        wall_s = time.perf_counter() - start

    from .demo_report import compare

    return {
        **results.summary(daemon, wall_s=wall_s),
        "series": {"name": HiddenLevel.name, "seed": seed, "speed": speed, "count": count},
        "forecasters": compare(scores, HiddenLevel(seed)),
    }


def _store(path: Path, config: Config, say: Callable[[str], object]) -> Store:
    from ..store.reading import Setup
    from ..store.store import Store

    setup = Setup(config, HiddenLevel.columns)
    return Store(path, setup, config.store, command="demo", blocking=False, say=say)


def _opening(seconds: float, speed: float, seed: int) -> str:
    return (
        f"A hidden level wanders (x = level + noise, seed {seed}); {speed:,.0f} elements a second "
        f"for {seconds:g} s.\nEvery tenth element: will the next one be positive? An LSTM(32) "
        "learns it from nothing, live."
    )
