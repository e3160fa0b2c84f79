"""`stream-lstm run`: the daemon, from a ZeroMQ feed to published predictions.

Whatever can be wrong with the command line is found before the network is compiled. The line
`ready: ...` on standard error says that ticks are taken from now on; scripts wait for it.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import __version__
from ..config import Config
from ..core.expressions import columns_of
from ..core.features import FeatureSet
from ..errors import (
    ConfigurationError,
    DataError,
    EndpointError,
    StreamLSTMError,
    UsageError,
)
from ..serve.logs import REFUSALS_PERIOD_S, Log, Pipe
from ..serve.logs import watch as observe
from ..serve.signals import StopSwitch, stop_on_signals
from ..serve.trace import Trace
from .input_file import JsonOption
from .live_results import LiveResults
from .live_table import REFRESH_S, LiveTable
from .monitoring import ended, open_monitor, told
from .options import configured
from .peers import print_refused_peers
from .process import say, say_json
from .service import Service
from .settings import Settings
from .spreadsheet_option import SpreadsheetOption, check_spreadsheet
from .trace_option import TraceOption
from .watch_option import WatchOption, need_page, page_process

if TYPE_CHECKING:
    from ..feed.intake import Intake
    from ..serve.daemon import Daemon
    from ..serve.monitor import Monitor

EXAMPLE = "stream-lstm run --connect tcp://127.0.0.1:5555 --feature 'log_return(mid(bid, ask))'"


@configured(
    (
        *("stream", "model", "scaling", "learning", "scoring"),
        *("feed", "publish", "store", "security", "serve"),
    )
)
def command(
    *,
    settings: Settings,
    until_end: Annotated[
        bool,
        typer.Option("--until-end", help="Stop when every stream has said that it has ended."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.parquet|.csv|.jsonl", help="Write predictions and their scores here."
        ),
    ] = None,
    spreadsheet: SpreadsheetOption = False,
    save_weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE.safetensors", help="Write the weights as they are at the end."),
    ] = None,
    trace: TraceOption = None,
    republish: Annotated[
        bool,
        typer.Option(
            "--republish",
            help="After a restart on a store, publish what was predicted behind its last "
            "snapshot once more.",
        ),
    ] = False,
    watch: WatchOption = False,
    as_json: JsonOption = False,
) -> None:
    """Predict a live ZeroMQ feed, and publish the predictions; learn from it if asked to.

    Example: stream-lstm run --connect tcp://127.0.0.1:5555 --publish tcp://127.0.0.1:5556
    --feature 'log_return(mid(bid, ask))' --learn
    """
    try:
        summary, failure = _run(
            settings, until_end, out, spreadsheet, save_weights, trace, republish, watch
        )
    except ConfigurationError as error:
        raise told(settings.config.serve, settings.blame(error)) from None
    except StreamLSTMError as error:
        raise told(settings.config.serve, error) from None
    if as_json:
        say_json(summary)
    else:
        from .summary_table import print_summary

        print_summary(summary)
        _print_feed(summary["feed"])
        print_refused_peers(summary["refused_peers"])
    if failure is not None:
        raise told(settings.config.serve, failure)


def _run(
    settings: Settings,
    until_end: bool,
    out: Path | None,
    spreadsheet: bool,
    save_weights: Path | None,
    trace: Path | None,
    republish: bool,
    watch: bool,
) -> tuple[dict[str, Any], StreamLSTMError | None]:
    """Run the daemon; return its summary, and the error that ended it if one did."""
    from ..feed.security import Security
    from .bank_file import check_bank, read_bank
    from .store_option import open_store
    from .warm_start import keep_weights, warm_start

    check_spreadsheet(out, spreadsheet=spreadsheet)
    if republish and settings.config.store.store is None:
        raise UsageError("--republish is for a restart on a store: name it with --store")
    if watch:
        if not settings.config.publish.publish:
            raise UsageError("--watch shows what is published: say where with --publish")
        need_page()
    check_bank(settings.config, save_weights)
    members = read_bank(settings.config)
    start = warm_start(settings)
    config, weights, scaler = start
    columns = _check(config, save_weights)
    security = Security(config.security)
    if config.publish.publish:
        security.check_bind(config.publish.publish)
    for endpoint in (*config.feed.connect, *config.feed.recovery):
        security.check_connect(endpoint)
    failure: StreamLSTMError | None = None
    with ExitStack() as stack:
        stop = stack.enter_context(StopSwitch())
        take_signals = stack.enter_context(stop_on_signals(stop, later=True))
        results = stack.enter_context(LiveResults(out, spreadsheet=spreadsheet))
        pipe = stack.enter_context(Pipe())
        table = stack.enter_context(LiveTable(time.monotonic, pipe))
        log = Log(config.serve.log_format, pipe.put)
        watched = observe(log)
        monitor = open_monitor(config, log, pipe)
        if monitor is not None:
            stack.enter_context(monitor)
        service = stack.enter_context(Service(settings, security, stop, log))
        store = open_store(
            start,
            columns,
            members,
            command="run",
            blocking=False,
            say=log.named("store", "warning"),
        )
        if store is not None:
            stack.enter_context(store)
            weights, scaler = store.setup.weights, store.setup.scaler

        from ..core.session import fallbacks  # JAX is imported here and not before
        from ..serve.daemon import Daemon
        from ..serve.runtime import Slack, release_unused

        timeline = None if trace is None else stack.enter_context(Trace(trace, "stream-lstm run"))
        kept = results if timeline is None else timeline.timed("store", results)
        observers = (kept, *watched.observers, table)
        daemon = stack.enter_context(
            Daemon(
                config,
                columns,
                stop=stop,
                observers=observers,
                store=store,
                republish=republish,
                weights=weights,
                scaler=scaler,
                members=members,
                security=security,
            )
        )
        release_unused()  # what compiling took is not needed again
        if timeline is not None:
            timeline.daemon(daemon)
        if monitor is not None:
            monitor.attend(daemon)
        daemon.every(REFUSALS_PERIOD_S, watched.tend)
        daemon.every(REFUSALS_PERIOD_S, Slack().tend)
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
        service.attend(daemon, ready)
        if log.form == "text":
            table.show(daemon.session)
        began = time.perf_counter()
        try:
            daemon.run(until_end=until_end)
        except (EndpointError, ConfigurationError) as error:
            failure = error  # what came until then is still worth its summary
        wall_s = time.perf_counter() - began
        if failure is None or isinstance(failure, EndpointError):
            failure = _nothing_taken(daemon.subscriber.intake) or failure
        if monitor is not None:
            monitor.health.leave()
        service.stopping()
        try:
            if store is not None:
                store.close()
        except StreamLSTMError as error:
            failure = failure or error  # the same: the disk may be full
        watched.flush()
        if log.form == "json":
            log.say("stopped", "the daemon has stopped", **ended(daemon, wall_s))
    session = daemon.session
    if save_weights is not None:
        names = session.table.names
        keep_weights(save_weights, session, names[0] if len(names) == 1 else "")
    summary = results.summary(daemon, wall_s=wall_s)
    return summary | {"log_lines_dropped": pipe.dropped}, failure


def _nothing_taken(intake: Intake) -> DataError | None:
    """Return the error where messages came and no tick of them could be taken."""
    counters = intake.counters
    if counters.ticks or not counters.refused:
        return None
    count = f"{counters.refused:,} message{'' if counters.refused == 1 else 's'}"
    causes = ", ".join(f"{times:,} for {cause}" for cause, times in intake.refused.most_common())
    (cause, _), *_ = intake.refused.most_common(1)
    return DataError(
        f"no tick was taken: refused {count} ({causes}), the first for {cause}: "
        f"{intake.first_refused[cause]}"
    )


def _check(config: Config, save_weights: Path | None) -> tuple[str, ...]:
    """Return the columns; raise UsageError or ConfigurationError for what cannot work."""
    if not config.feed.connect:
        raise UsageError(f"name the publisher to listen to with --connect, for example: {EXAMPLE}")
    if not config.stream.features:
        raise UsageError(f"name what the model sees with --feature, for example: {EXAMPLE}")
    if config.feed.payload == "float64" and not config.feed.columns:
        raise UsageError(
            "bare float64 numbers have no names: list every one that a message holds, in order, "
            "with --columns, for example --columns price,size"
        )
    columns = config.feed.columns or columns_of(config.stream.features)
    FeatureSet(config.stream.features, columns)
    if save_weights is not None:
        from ..store.weights import check_target

        if config.model.sharing == "per-stream":
            raise UsageError(
                "--save-weights writes one set of weights, and with sharing = 'per-stream' there "
                "is one for each stream: leave one of the two out"
            )
        check_target(save_weights)
    return columns


def _ready(daemon: Daemon, monitor: Monitor | None) -> str:
    feed = ", ".join(daemon.config.feed.connect)
    if daemon.config.feed.recovery:
        feed += f" and for lost ticks to {', '.join(daemon.config.feed.recovery)}"
    names = ", ".join(daemon.config.feed.streams) or "all streams"
    publisher = daemon.publisher
    out = f"publishing on {publisher.endpoint}" if publisher else "publishing nowhere (--publish)"
    if monitor is not None:
        out += f", metrics at http://{monitor.address}/metrics"
    told = f"ready: subscribed to {names} at {feed}, {out}, compiled in {daemon.compile_s:.1f} s"
    resumed = None if daemon.store is None else daemon.store.resumed
    if resumed is None:
        return told
    return f"{told}, gone on from the store ({resumed.inputs:,} inputs behind its last snapshot)"


def _print_feed(feed: dict[str, int]) -> None:
    """Print what the feed did wrong, if it did."""
    words = {
        "refused": ("message", "refused"),
        "repeats": ("tick", "repeated"),
        "old": ("tick", "too late"),
        "recovered": ("tick", "recovered"),
        "gone": ("tick", "asked for and gone"),
        "timeouts": ("request", "unanswered"),
        "stale": ("time", "silent"),
        "takeovers": ("stream", "taken over"),
    }
    told = [
        f"{count:,} {noun}{'' if count == 1 else 's'} {what}"
        for key, (noun, what) in words.items()
        if (count := feed[key])
    ]
    if told:
        say(f"feed: {', '.join(told)}")
