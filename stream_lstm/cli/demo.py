"""`stream-lstm demo`: the whole service against its own feed, in half a minute.

Another process publishes a seeded series over ZeroMQ on loopback. The daemon of `stream-lstm run`
subscribes to it, predicts, learns and publishes. The best possible forecast is computed afterwards
from the seed. Nothing leaves the machine, and no file is read or written, except for the store
that `--watch` shows, which is deleted at the end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import Config, build
from ..events import Input, Notice, Output, Score
from ..feed.child import demo_feed
from ..feed.synthetic import HiddenLevel
from ..serve.logs import EventLog, Pipe
from ..serve.signals import StopSwitch, stop_on_signals
from ..store.executables import keep_executables
from ..store.startup import WarmStart, open_store
from .console import REFRESH_S, LiveTable, is_quiet, result
from .options import JsonOption, WatchOption, options
from .run import need_page, page_process

if TYPE_CHECKING:
    from ..core.scores import Forecasts

SPEED = 2000.0
"""Elements a second: a fifth of what two slow cores keep up with."""

MAX_SPEED, MAX_SECONDS = 20_000.0, 600.0
"""Together 12 million elements, whose scores are kept in memory for the report."""

OVERTIME_S = 5.0
"""Seconds after the end of the feed at which a machine that cannot keep up stops."""

NEXT = "stream-lstm replay FILE.csv --feature 'log_return(price)' --learn"

TITLES = {
    "model": "the model",
    "last_label": "the last sign again",
    "base_rate": "the base rate",
    "best": "best possible",
}


@options()
def command(
    *,
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
    """See it work in half a minute: no file, no network, no settings.

    Ctrl-C ends it at any time, with the figures so far.
    """
    if watch:
        need_page()
    summary = _demo(seconds, seed, speed, watch)
    result(summary, lines(summary["labels"], summary["forecasters"]), as_json=as_json)


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
        feed = stack.enter_context(demo_feed(seed=seed, speed=speed, count=count))
        pipe = stack.enter_context(Pipe())
        table = stack.enter_context(LiveTable(time.monotonic, pipe))

        def put(line: str) -> None:
            if not is_quiet():
                pipe.put(line)

        put(
            f"A hidden level wanders (x = level + noise, seed {seed}); {speed:,.0f} elements a "
            f"second for {seconds:g} s.\nEvery tenth element: will the next one be positive? An "
            "LSTM(32) learns it from nothing, live."
        )
        refused = EventLog(put, time.monotonic)

        from ..core.scores import compare_forecasters
        from ..serve.daemon import Daemon  # JAX is imported while the feed starts
        from ..serve.replaying import LiveResults

        results = stack.enter_context(LiveResults())
        keep_executables(None, put)

        path, columns = None, HiddenLevel.columns
        if watch:  # the page shows the series and the updates, which only a store contains
            folder = stack.enter_context(TemporaryDirectory(prefix="stream-lstm-"))
            path = Path(folder) / "demo.db"
        config = configuration(feed.endpoint(), path)
        start = WarmStart(config)
        store = open_store(start, columns, command="demo", blocking=False, warn=put)
        if store is not None:
            stack.enter_context(store)
        observers = (results, keep, table, refused)
        daemon = stack.enter_context(
            Daemon(config, columns, stop=stop, observers=observers, store=store)
        )
        daemon.every(REFRESH_S, table.refresh)
        daemon.every(seconds + OVERTIME_S, stop.set)
        assert daemon.publisher is not None
        take_signals()
        put(
            f"ready: ticks come from process {feed.pid} at {config.feed.connect[0]}, predictions "
            f"go out at {daemon.publisher.endpoint}"
        )
        if watch:
            page = stack.enter_context(page_process(daemon.publisher.endpoint, config))
            pipe.put(f"live page: {page.endpoint()}")
        table.show(daemon.session)
        began = time.perf_counter()
        daemon.run(until_end=True)
        wall_s = time.perf_counter() - began
    return {
        **results.summary(daemon, wall_s=wall_s),
        "series": {"name": HiddenLevel.name, "seed": seed, "speed": speed, "count": count},
        "forecasters": compare_forecasters(scores, HiddenLevel(seed)),
    }


def lines(labels: int, figures: Forecasts) -> Iterator[str]:
    """Yield the report, at most 80 characters wide except for the sentences."""
    if not figures:
        yield "Nothing was scored: the first predictions come after 100 elements."
    else:
        half = f"last {labels - labels // 2:,}"
        yield f"{'':<20}  {f'all {labels:,} labels':^19}  {half:^19}"
        yield f"{'':<20}  {'right':>8} {'log loss':>10}  {'right':>8} {'log loss':>10}"
        for name, title in TITLES.items():
            cells = (figures[part][name] for part in ("all", "second_half"))
            numbers = "  ".join(f"{c['accuracy']:>8.1%} {c['log_loss']:>10.4f}" for c in cells)
            yield f"{title:<20}  {numbers}"
        yield ""
        yield from sentences(labels, figures["all"])
    yield ""
    yield f"Next, a file of yours: {NEXT}"


def sentences(labels: int, figures: dict[str, dict[str, float]]) -> list[str]:
    """Return two sentences about the figures."""
    model, last, base, best = (figures[name] for name in TITLES)
    first = (
        f"The model started from nothing and got {model['accuracy']:.1%} of {labels:,} signs "
        f"right; repeating the last sign gets {last['accuracy']:.1%} and the base rate "
        f"{base['accuracy']:.1%}."
    )
    top = (
        "The best possible on these labels, knowing how the series is made, is "
        f"{best['accuracy']:.1%}"
    )
    gain = base["log_loss"] - model["log_loss"]
    if gain <= 0:
        return [first, f"{top}; in log loss the model does not beat the base rate yet."]
    share = gain / (base["log_loss"] - best["log_loss"])
    return [
        first,
        f"{top}; in log loss the model came {share:.0%} of the way there from the base rate.",
    ]
