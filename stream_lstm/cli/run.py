"""`stream-lstm run`: the daemon, from a ZeroMQ feed to published predictions.

Errors in the command line are found before the network is compiled. The line `ready: ...` on
standard error means that ticks are taken from now on; scripts wait for it.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from .. import __version__
from ..config import Config
from ..core.expressions import columns_of
from ..errors import ConfigurationError, DataError, EndpointError, StreamLSTMError, UsageError
from ..feed.child import ChildProcess
from ..schema import LogFormat
from ..serve.foreign import foreign_lines
from ..serve.logs import PERIOD_S, Log, Pipe, event_log
from ..serve.signals import StopSwitch, stop_on_signals
from ..serve.trace import Trace
from ..store.startup import (
    WarmStart,
    check_one_set,
    check_saving,
    keep_weights,
    open_store,
    warm_start,
)
from .console import REFRESH_S, LiveTable, is_quiet, result
from .options import JsonOption, ResultOptions, WatchOption, as_usage, options
from .settings import Settings

if TYPE_CHECKING:
    from ..feed.intake import Intake
    from ..feed.security import Security
    from ..serve.daemon import Daemon
    from ..serve.monitor import Monitor

POSITIONED = ("text", "array", "struct", "float64")
"""Payloads whose values are known by their places, so that all of them have a column."""

EXAMPLE = "stream-lstm run --connect tcp://127.0.0.1:5555 --feature 'log_return(mid(bid, ask))'"


@options(
    *("stream", "model", "scaling", "learning", "scoring"),
    *("feed", "publish", "store", "security", "serve"),
)
def command(
    *,
    settings: Settings,
    until_end: Annotated[
        bool, typer.Option("--until-end", help="Stop when every stream has ended.")
    ] = False,
    files: ResultOptions,
    republish: Annotated[
        bool,
        typer.Option(
            "--republish",
            help="After a restart on a store, publish again the predictions made after its last "
            "snapshot.",
        ),
    ] = False,
    watch: WatchOption = False,
    as_json: JsonOption = False,
) -> None:
    """Predict a live ZeroMQ feed, and publish the predictions; learn from it if asked to.

    Example: stream-lstm run --connect tcp://127.0.0.1:5555 --publish tcp://127.0.0.1:5556
    --feature 'log_return(mid(bid, ask))' --learn
    """
    form = settings.config.serve.log_format
    failure: StreamLSTMError | None = None
    with Pipe() as pipe:
        log = Log(form, pipe.put, quiet=is_quiet())
        with foreign_lines(log):
            try:
                summary, failure = _run(settings, until_end, files, republish, watch, log, pipe)
            except StreamLSTMError as error:
                summary, failure = {}, error
                if isinstance(error, ConfigurationError):
                    failure = as_usage(error, settings, {})
    if summary:
        from .results import feed_lines, summary_lines

        summary |= {"log_lines_dropped": pipe.dropped}
        lines = [*summary_lines(summary), *feed_lines(summary)]
        result(summary, lines, as_json=as_json or form == "json")
    if failure is not None:
        raise _failed(form, failure)


def _failed(form: LogFormat, error: StreamLSTMError) -> typer.Exit:
    """Log an error, as far as the log is read; return what exits with its code."""
    with Pipe() as pipe:
        log = Log(form, pipe.put)
        log.say("failed", *error.lines, level="error", exit_code=error.exit_code)
    return typer.Exit(error.exit_code)


def _run(
    settings: Settings,
    until_end: bool,
    files: ResultOptions,
    republish: bool,
    watch: bool,
    log: Log,
    pipe: Pipe,
) -> tuple[dict[str, Any], StreamLSTMError | None]:
    """Run the daemon; return its summary, and the error that ended it if any."""
    start, columns, security = _checked(settings, files, republish, watch, log)
    config = start.config
    failure: StreamLSTMError | None = None
    from ..core.session import fallbacks  # JAX is imported here and not before
    from ..serve.daemon import Daemon
    from ..serve.replaying import LiveResults
    from ..serve.runtime import MemoryTrim, release_unused
    from ..serve.service import Service, log_stop, open_monitor

    with ExitStack() as stack:
        stop = stack.enter_context(StopSwitch())
        take_signals = stack.enter_context(stop_on_signals(stop, later=True))
        results = stack.enter_context(LiveResults())
        results.open(files.out, spreadsheet=files.spreadsheet)
        table = stack.enter_context(LiveTable(time.monotonic, pipe))
        events = event_log(log)
        monitor = open_monitor(config, log, pipe)
        if monitor is not None:
            stack.enter_context(monitor)
        service = stack.enter_context(
            Service(settings.config, settings.again, security, stop, log, settings.file)
        )
        store_log = log.named("store", "warning")
        store = open_store(start, columns, command="run", blocking=False, warn=store_log)
        if store is not None:
            stack.enter_context(store)
            start = start._replace(weights=store.setup.weights, scaler=store.setup.scaler)

        timeline = None
        if files.trace is not None:
            timeline = stack.enter_context(Trace(files.trace, "stream-lstm run"))
        observer = results if timeline is None else timeline.timed("store", results)
        daemon = stack.enter_context(
            Daemon(
                config,
                columns,
                stop=stop,
                observers=(observer, events, table),
                store=store,
                republish=republish,
                weights=start.weights,
                scaler=start.scaler,
                members=start.members,
                security=security,
            )
        )
        daemon.subscriber.intake.say = lambda line: log.say("payload", line)
        release_unused()  # the memory that compiling took is not needed again
        if timeline is not None:
            timeline.daemon(daemon)
        if monitor is not None:
            monitor.attach(daemon)
        daemon.every(PERIOD_S, events.tend)
        daemon.every(PERIOD_S, MemoryTrim().tend)
        daemon.every(REFRESH_S, table.refresh)
        for line in fallbacks(daemon.session):
            log.say("fallback", line, level="warning")
        if watch and daemon.publisher is not None:
            page = stack.enter_context(page_process(daemon.publisher.endpoint, config))
            log.say("page", f"live page: {page.endpoint()}", plain=True)
        ready = _ready(daemon, monitor)
        take_signals()
        if not stop.requested:
            log.say("ready", ready, plain=True, version=__version__)
        service.attach(daemon, ready)
        if log.form == "text":
            table.show(daemon.session)
        began = time.perf_counter()
        try:
            daemon.run(until_end=until_end)
        except (EndpointError, ConfigurationError) as error:
            failure = error  # what was received before still gets its summary
        wall_s = time.perf_counter() - began
        if failure is None or isinstance(failure, EndpointError):
            failure = _nothing_taken(daemon.subscriber.intake) or failure
        if monitor is not None:
            monitor.health.ended()
        service.stopping()
        try:
            if store is not None:
                store.close()
        except StreamLSTMError as error:
            failure = failure or error  # the disk may be full; the summary is still printed
        events.flush()
        log_stop(log, daemon, wall_s)
    session = daemon.session
    if files.save_weights is not None:
        names = session.table.names
        keep_weights(files.save_weights, session, names[0] if len(names) == 1 else "")
    return results.summary(daemon, wall_s=wall_s), failure


def _checked(
    settings: Settings, files: ResultOptions, republish: bool, watch: bool, log: Log
) -> tuple[WarmStart, tuple[str, ...], Security]:
    """Return the start, the columns and the security; raise for everything that cannot work."""
    from ..feed.security import Security

    files.check()
    config = settings.config
    if republish and config.store.store is None:
        raise UsageError("--republish is for a restart on a store: name it with --store")
    if watch:
        if not config.publish.publish:
            raise UsageError(
                "--watch shows published predictions: add --publish tcp://127.0.0.1:5556, or "
                "tcp://127.0.0.1:* for any free port"
            )
        need_page()
    check_one_set(config, files.save_weights)
    check_saving(config, files.save_weights)
    start = warm_start(config, settings.origins, log.named("start", "warning"))
    columns = _columns(start.config)
    config = start.config
    security = Security(config.security)
    if config.publish.publish:
        security.check_bind(config.publish.publish)
    for endpoint in (*config.feed.connect, *config.feed.recovery):
        security.check_connect(endpoint)
    for endpoint in config.feed.bind_feed:
        security.check_bind(endpoint)
    return start, columns, security


def _columns(config: Config) -> tuple[str, ...]:
    """Return the columns; raise UsageError or ConfigurationError for a feed that cannot work."""
    if not (config.feed.connect or config.feed.bind_feed):
        raise UsageError(f"name the publisher with --connect, for example: {EXAMPLE}")
    if not config.stream.features:
        raise UsageError(f"name the model's inputs with --feature, for example: {EXAMPLE}")
    from ..core.feature_sets import compile_features
    from ..core.features import check_streams
    from ..feed.decode import compile_decoder, resolve

    feed = config.feed
    if feed.payload == "float64" and not (feed.columns or feed.channels):
        raise UsageError(
            "bare float64 numbers have no names: list all values of a message, in order, with "
            "--columns, for example --columns price,size"
        )
    columns = feed.columns
    if not columns and (feed.fields or feed.payload in POSITIONED):
        columns = resolve(feed).columns
    columns = columns or columns_of(config.stream.features)
    if feed.payload not in ("record", "auto"):
        compile_decoder(msgspec.structs.replace(feed, columns=columns))
    compiled = compile_features(config.stream.features, columns, config.stream)
    if feed.streams:
        check_streams(compiled.others, feed.streams)
    return columns


def _nothing_taken(intake: Intake) -> DataError | None:
    """Return an error if messages came and none of their ticks was accepted."""
    counters = intake.counters
    if counters.ticks or not counters.refused:
        return None
    count = f"{counters.refused:,} message{'' if counters.refused == 1 else 's'}"
    said, reasons = f"no tick was accepted: refused {count}", intake.reasons
    if len(reasons.counts) > 1:
        return DataError(said, *reasons.told())
    return DataError(f"{said}: {''.join(reasons.first.values())}")


def _ready(daemon: Daemon, monitor: Monitor | None) -> str:
    feed = ", ".join(daemon.subscriber.endpoints)
    if daemon.config.feed.recovery:
        feed += f" and for lost ticks to {', '.join(daemon.config.feed.recovery)}"
    names = ", ".join(daemon.config.feed.streams) or "all streams"
    publisher = daemon.publisher
    out = f"publishing on {publisher.endpoint}" if publisher else "publishing nowhere (--publish)"
    if monitor is not None:
        out += f", metrics at http://{monitor.address}/metrics"
    line = f"ready: subscribed to {names} at {feed}, {out}, compiled in {daemon.compile_s:.1f} s"
    resumed = None if daemon.store is None else daemon.store.resumed
    if resumed is None:
        return line
    return f"{line}, resumed from the store ({resumed.inputs:,} inputs after its last snapshot)"


# ---- the live page, which `demo --watch` serves too -------------------------------------------


def need_page() -> None:
    """Raise UsageError with the install line if the extra is missing."""
    from ..interop.extras import need_for

    need_for("the live page", "bokeh", "view")


def page_process(endpoint: str, config: Config) -> ChildProcess:
    """Start the page of what is published at `endpoint`; a context manager that ends it."""
    given = {
        "--connect": endpoint,
        "--store": config.store.store,
        "--curve-dir": config.security.curve_dir,
    }
    words = [word for pair in given.items() if pair[1] is not None for word in pair]
    return ChildProcess("stream_lstm.view.live", *map(str, words), what="live page")
