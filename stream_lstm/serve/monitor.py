"""The pages of a daemon: /metrics, /livez and /readyz, and the server that gives them.

It stands before the daemon is made, so that a port that is taken is told of before anything is
compiled, and an orchestrator gets an answer while it starts. Whatever goes wrong here is counted
and told of, and no tick waits for it.

Whether the daemon lives, and whether it is of use: what an orchestrator asks for.

It lives as long as its loop turns, and that is all: a daemon whose feed is gone is not helped by
being started again. It is ready while it predicts from a feed that is there and keeps what it
should keep.

The metrics: what a daemon has counted, as families of the Prometheus client at a scrape.

All of it is read where the daemon counts it anyway; nothing is counted for a metric but the
histograms of `timings`. Names follow Prometheus: base units, counters that end in `_total`, one
unit for all series of a name. Sums over time are counters too, so that a mean over any span is a
ratio of two rates; the log loss of the last hour is

    rate(stream_lstm_log_loss_nats_total{forecast="model"}[1h])
    / on() group_left rate(stream_lstm_labels_total[1h])
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .daemon import Daemon
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, get_args

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

from .. import __version__
from ..closing import Closing
from ..feed.security import Reason
from ..feed.sequence import CAUSES
from ..quoting import json_line, label
from ..schema import ServeConfig
from .metrics import FORECASTS, LogHistogram, Timings, Totals, some_streams, totals
from .runtime import quick_switches
from .web import Page, WebServer, bind

TURN_S = 0.5
"""Between two marks that the loop makes."""

NAMED = 5
"""Streams that a reason names."""


class HealthStatus(NamedTuple):
    """Whether all is well, and what is told of it."""

    well: bool
    told: dict[str, Any]


class Health:
    """What is known of a daemon, which there need not be yet.

    live_after: seconds without a turn of the loop after which it hangs. clock: seconds, monotonic.
    """

    def __init__(self, live_after: float, clock: Callable[[], float]) -> None:
        self._live_after, self._clock = live_after, clock
        self._turned: float | None = None
        self._daemon: Daemon | None = None

    def attend(self, daemon: Daemon) -> None:
        """Have the loop of a daemon mark its turns."""
        self._daemon = daemon
        daemon.every(TURN_S, self._mark)

    def _mark(self) -> None:
        self._turned = self._clock()

    def leave(self) -> None:
        """Take notice that the loop is over, so that no more turns are to be expected."""
        self._turned = None

    @property
    def loop_age_s(self) -> float:
        """Seconds since the loop was last seen to turn; 0 before it begins and after its end."""
        turned = self._turned
        return 0.0 if turned is None else max(self._clock() - turned, 0.0)

    def live(self) -> HealthStatus:
        """Return whether the loop turns."""
        age_s = self.loop_age_s
        well = age_s <= self._live_after
        reasons = [] if well else [f"the loop has not turned for {age_s:.1f} s"]
        return HealthStatus(
            well, {"live": well, "reasons": reasons, "loop_age_s": round(age_s, 3)}
        )

    def ready(self) -> HealthStatus:
        """Return whether predictions are made from a fresh feed, and kept where they should be."""
        daemon = self._daemon
        if daemon is None:
            return _verdict({"started": "it is still starting"})
        stopping = "it is stopping" if daemon.stop.requested else ""
        checks = {
            "started": stopping,
            "loop": "; ".join(self.live().told["reasons"]),
            "warm": _cold(daemon),
            "feed": _silent(daemon),
        }
        if daemon.store is not None:
            trouble = daemon.store.trouble
            checks["store"] = f"the store cannot be written: {trouble}" if trouble else ""
        return _verdict(checks)


def _verdict(checks: dict[str, str]) -> HealthStatus:
    """Make a verdict of {check: what is wrong, "" if nothing is}."""
    reasons = [reason for reason in checks.values() if reason]
    told = {
        "ready": not reasons,
        "reasons": reasons,
        "checks": {k: not v for k, v in checks.items()},
    }
    return HealthStatus(not reasons, told)


def _cold(daemon: Daemon) -> str:
    from .metrics import warm_streams

    wanted = daemon.config.feed.streams
    warm, cold = warm_streams(daemon.session, wanted)
    if cold:
        more = f" and {len(cold) - NAMED} more" if len(cold) > NAMED else ""
        return f"not warm yet: {', '.join(cold[:NAMED])}{more}"
    return "" if warm else "no stream is warm yet"


def _silent(daemon: Daemon) -> str:
    if daemon.staleness.stale:
        return f"the feed has been silent for {daemon.subscriber.idle_s:.1f} s"
    return "" if daemon.subscriber.counters.messages else "nothing has come from the feed yet"


PREFIX = "stream_lstm_"

COUNTED = {
    "elements": "Elements accepted.",
    "ticks": "Ticks that came to a stream, those refused included.",
    "old_ticks": "Ticks older than what came before them, or repeated, taken or not.",
    "predictions": "Predictions made.",
    "labels": "Labels that a prediction was scored with.",
    "positive_labels": "Labels that were 1.",
    "expired_predictions": "Predictions that left the book of those waiting without a label.",
    "updates": "Updates of the weights.",
    "updates_rested": "Labels that nothing was learned from, learning being at rest.",
    "rollbacks": "Times that learning was rolled back.",
    "gaps": "Gaps in the sequence numbers.",
    "missed_ticks": "Ticks lost in gaps.",
    "resets": "Times that a stream's state began anew.",
    "labels_early": "Labels from outside that came before their prediction.",
    "labels_revised": "Labels from outside that took the place of another.",
}
"""Counters of the session, over all streams."""

FEED = {
    "feed_messages": ("messages", "Messages that came from the feed."),
    "feed_heartbeats": ("heartbeats", "Heartbeats of the feed."),
    "feed_sessions": ("sessions", "Publishers' sessions that began."),
    "feed_takeovers": ("takeovers", "Streams that another endpoint took over."),
    "feed_stale_spells": ("stale", "Times that the feed fell silent."),
    "recovery_requests": ("asked", "Requests for lost ticks."),
    "recovery_timeouts": ("timeouts", "Requests for lost ticks without an answer in time."),
    "recovery_overflows": ("overfull", "Times that too much waited for lost ticks."),
    "recovered_ticks": ("recovered", "Ticks that came in answer to a request."),
    "recovered_twice_ticks": ("overlaps", "Recovered ticks that also came by the usual way."),
    "unrecoverable_ticks": ("gone", "Ticks that were asked for and no longer held."),
}
"""Counters of the feed: what they are called, in `FeedCounters` and here, and what they mean."""

TICK_REASONS = ("not_finite", "repeated", "too_late", "old_time")
LABEL_REASONS = ("repeated", "disagreeing", "late", "unknown", "bad", "unexpected")
UPDATE_REASONS = ("not_finite", "update_too_large", "weights_too_large")

AGAINST = ("coin", "base_rate", "last_label")


def about() -> Iterator[Metric]:
    """Yield what is known without a daemon."""
    info = GaugeMetricFamily(PREFIX + "build_info", "1, labelled.", labels=["version"])
    info.add_metric([__version__], 1)
    yield info


def health(state: Health) -> Iterator[Metric]:
    """Yield how the daemon is."""
    yield gauge("ready", "1 if /readyz says so.", state.ready().well)
    yield gauge("loop_age_seconds", "Time since the loop was seen to turn.", state.loop_age_s)


def counts(daemon: Daemon) -> Iterator[Metric]:
    """Yield what was counted over all streams."""
    total = totals(daemon.session)
    yield gauge("streams", "Streams that are known.", total.streams)
    yield gauge("warm_streams", "Streams past their warm-up.", total.warm)
    yield gauge("compile_seconds", "Time that the start took to compile.", daemon.compile_s)
    yield counter(
        "compilations_after_ready", "Programs compiled after the start.", daemon.compilations
    )
    for name, value in _session(total).items():
        yield counter(name, COUNTED[name], value)
    yield by_label(
        "log_loss_nats",
        "Log losses of the labels, summed.",
        "forecast",
        dict(zip(FORECASTS, total.scored.losses, strict=True)),
    )
    yield counter(
        "correct_predictions", "Labels that the prediction was right about.", total.scored.correct
    )
    yield from _refusals(daemon, total)


def _session(total: Totals) -> dict[str, int]:
    counters, scored = total.counters, total.scored
    return {
        "elements": total.elements,
        "ticks": counters.ticks,
        "old_ticks": counters.old_ticks,
        "predictions": counters.predictions,
        "labels": scored.labels,
        "positive_labels": scored.positives,
        "expired_predictions": total.expired,
        "updates": counters.updates,
        "updates_rested": counters.updates_rested,
        "rollbacks": counters.rollbacks,
        "gaps": counters.gaps,
        "missed_ticks": counters.missed,
        "resets": counters.resets,
        "labels_early": counters.labels_early,
        "labels_revised": counters.labels_revised,
    }


def _refusals(daemon: Daemon, total: Totals) -> Iterator[Metric]:
    counters, feed = total.counters, daemon.subscriber.counters
    old = counters.old_ticks if daemon.config.stream.on_old_time == "refuse" else 0
    ticks = counters.refused_ticks - old, feed.repeats, feed.old, old
    yield by_label(
        "refused_ticks", "Ticks that were refused.", "reason", _pairs(TICK_REASONS, ticks)
    )
    labels = (
        counters.labels_repeated,
        counters.labels_disagreeing,
        counters.labels_late,
        counters.labels_unknown,
        counters.labels_bad,
    )
    rest = max(counters.refused_labels - sum(labels), 0)
    yield by_label(
        "refused_labels",
        "Labels from outside that were refused.",
        "reason",
        _pairs(LABEL_REASONS, (*labels, rest)),
    )
    messages = daemon.subscriber.intake.refused
    yield by_label(
        "refused_messages",
        "Messages that were refused whole.",
        "reason",
        {cause: messages[cause] for cause in CAUSES},
    )
    updates = counters.updates_not_finite, counters.updates_too_large, counters.weights_too_large
    yield by_label(
        "refused_updates",
        "Updates that were refused.",
        "reason",
        _pairs(UPDATE_REASONS, updates),
    )
    peers = daemon.security.counts()
    yield by_label(
        "refused_peers",
        "Peers that were not let in, or were cut off.",
        "reason",
        {reason: peers.get(reason, 0) for reason in get_args(Reason)},
    )


def feed(daemon: Daemon) -> Iterator[Metric]:
    """Yield what the feed counted, and how it is."""
    subscriber = daemon.subscriber
    for name, told in FEED.items():
        yield counter(name, told[1], getattr(subscriber.counters, told[0]))
    yield gauge("feed_stale", "1 while the feed is silent.", daemon.staleness.stale)
    yield gauge(
        "feed_silence_seconds", "Time since the last message.", max(subscriber.idle_s, 0.0)
    )


def store(daemon: Daemon) -> Iterator[Metric]:
    """Yield how the store is, where there is one."""
    if daemon.store is None:
        return
    figures = daemon.store.figures()
    yield gauge("store_healthy", "1 while the store is written.", daemon.store.trouble is None)
    yield gauge("store_waiting_bytes", "What waits to be written.", daemon.store.waiting_bytes)
    yield counter("store_retries", "Writes that failed and were tried again.", figures["retries"])
    yield counter(
        "store_inputs_left_out", "Inputs that were left out.", figures["inputs_left_out"]
    )


def streams(daemon: Daemon) -> Iterator[Metric]:
    """Yield some figures of each stream, up to a number of streams."""
    told = list(some_streams(daemon.session))
    columns = {
        "stream_elements": ("Elements of a stream.", [s.elements for s in told]),
        "stream_labels": ("Labels of a stream.", [s.scored.labels for s in told]),
        "stream_correct_predictions": ("Right calls.", [s.scored.correct for s in told]),
    }
    names = [label(stream.name) for stream in told]
    for name, (words, values) in columns.items():
        yield by_label(name, words, "stream", _pairs(names, values))
    losses = CounterMetricFamily(
        PREFIX + "stream_log_loss_nats",
        "Log losses of a stream's labels, summed.",
        labels=["stream", "forecast"],
    )
    evidence = GaugeMetricFamily(
        PREFIX + "stream_evidence_nats",
        "Logarithm of the evidence that the model is better.",
        labels=["stream", "against"],
    )
    for name, stream in zip(names, told, strict=True):
        for forecast, loss in zip(FORECASTS, stream.scored.losses, strict=True):
            losses.add_metric([name, forecast], loss)
        for against, log_e in zip(AGAINST, stream.evidence, strict=True):
            evidence.add_metric([name, against], log_e)
    yield losses
    yield evidence


def times(timings: Timings) -> Iterator[Metric]:
    """Yield the histograms."""
    alone = {
        "tick_to_publish_seconds": (
            timings.tick_to_publish,
            "From taking a message from the socket to handing over the prediction it made due.",
        ),
        "queue_age_seconds": (
            timings.queue_age,
            "The longest that such a message can have waited in the socket.",
        ),
        "update_seconds": (timings.update, "One update of the weights."),
    }
    for name, (histogram, words) in alone.items():
        family = HistogramMetricFamily(PREFIX + name, words)
        _fill(family, [], histogram)
        yield family
    family = HistogramMetricFamily(
        PREFIX + "step_seconds",
        "One call into the network; some of them are timed.",
        labels=["call"],
    )
    for kind, histogram in timings.step.items():
        _fill(family, [kind], histogram)
    yield family


def _fill(family: HistogramMetricFamily, labels: list[str], histogram: LogHistogram) -> None:
    family.add_metric(labels, histogram.buckets(), histogram.sum_ns / 1e9)


def counter(name: str, words: str, value: float) -> Metric:
    """Return a counter of one value; `name` lacks `_total`."""
    return CounterMetricFamily(PREFIX + name, words, value=value)


def gauge(name: str, words: str, value: float) -> Metric:
    """Return a gauge of one value."""
    return GaugeMetricFamily(PREFIX + name, words, value=float(value))


def by_label(name: str, words: str, label: str, values: Mapping[str, float]) -> Metric:
    """Return a counter with a value for each value of one label."""
    family = CounterMetricFamily(PREFIX + name, words, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _pairs(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(names, values, strict=True))


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
        yield from about()
        yield from health(self.health)
        yield counter("scrapes", "Scrapes that were answered.", self.scrapes)
        yield counter("scrape_errors", "Pages that could not be made.", self.errors)
        yield counter("log_lines_dropped", "Log lines dropped.", self._dropped())
        daemon = self._daemon
        if daemon is None:
            return
        for part in (counts, feed, store, streams):
            yield from part(daemon)
        yield from times(self.timings)

    def _failed(self, error: Exception) -> None:
        self.errors += 1
        self._say(f"a page of {self.address} could not be made: {error!r}")

    # ---- the end ----------------------------------------------------------------------

    def close(self) -> None:
        """Stop serving."""
        self._stack.close()


def _page(verdict: HealthStatus) -> Page:
    body = json_line(verdict.told).encode() + b"\n"
    return Page(200 if verdict.well else 503, "application/json", body)
