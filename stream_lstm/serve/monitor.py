"""The pages of a daemon: /metrics, /livez and /readyz, and the server for them.

The server starts before the daemon is constructed: a taken port is reported before anything is
compiled, and an orchestrator gets answers during the start. Errors here are counted and logged; no
tick waits for this thread.

A daemon is live while its loop turns, and nothing else counts: a restart does not help a daemon
whose feed is gone. It is ready while it predicts from a feed that sends, and stores what it should
store. With `ready = "all"` every stream that has not ended must send, or its publisher must send
heartbeats; with "any" one warm stream is enough.

The metrics are families of the Prometheus client, made at a scrape from counts that the daemon
keeps anyway; only the histograms of `Timings` exist for them. Names follow Prometheus: base units,
counters end in `_total`, one unit for all series of a name. Sums over time are counters, so a mean
over any span is a ratio of two rates. The log loss of the last hour is

    rate(stream_lstm_log_loss_nats_total{forecast="model"}[1h])
    / on() group_left rate(stream_lstm_labels_total[1h])
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, get_args

from msgspec.structs import asdict
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
from .metrics import (
    FORECASTS,
    MOST_STREAMS,
    Timings,
    Totals,
    first_streams,
    totals,
    warm_streams,
)
from .runtime import quick_switches
from .status import StatusName, Survey
from .web import Page, WebServer, bind

if TYPE_CHECKING:
    from .daemon import Daemon

TURN_S = 0.5
"""Period at which the loop marks that it turns."""

NAMED = 5
"""Streams that a reason lists."""


class Health:
    """The state of a daemon, which may not exist yet.

    live_after: seconds without a turn after which the loop counts as hung. clock: seconds,
    monotonic.
    """

    def __init__(self, live_after: float, clock: Callable[[], float]) -> None:
        self._live_after, self._clock = live_after, clock
        self._turned: float | None = None
        self._daemon: Daemon | None = None

    def attach(self, daemon: Daemon) -> None:
        """Mark the turns of a daemon's loop from now on."""
        self._daemon = daemon
        daemon.every(TURN_S, self._mark)

    def _mark(self) -> None:
        self._turned = self._clock()

    def ended(self) -> None:
        """Note that the loop has ended and will not turn again."""
        self._turned = None

    @property
    def loop_age_s(self) -> float:
        """Seconds since the last turn of the loop; 0 before its start and after its end."""
        turned = self._turned
        return 0.0 if turned is None else max(self._clock() - turned, 0.0)

    def live(self) -> dict[str, Any]:
        """Return the JSON object of /livez: whether the loop turns."""
        age_s = self.loop_age_s
        live = age_s <= self._live_after
        reasons = [] if live else [f"the loop has not turned for {age_s:.1f} s"]
        return {"live": live, "reasons": reasons, "loop_age_s": round(age_s, 3)}

    def ready(self) -> dict[str, Any]:
        """Return the JSON object of /readyz: whether the daemon predicts and stores."""
        daemon = self._daemon
        survey = None if daemon is None else daemon.statuses.survey()
        faults = self._faults(daemon, survey)
        reasons = [fault for fault in faults.values() if fault]
        checks = {check: not fault for check, fault in faults.items()}
        body = {"ready": not reasons, "reasons": reasons, "checks": checks}
        return body if daemon is None or survey is None else body | _listed(daemon, survey)

    @property
    def is_ready(self) -> bool:
        """Whether /readyz says so."""
        daemon = self._daemon
        survey = None if daemon is None else daemon.statuses.survey()
        return not any(self._faults(daemon, survey).values())

    def _faults(self, daemon: Daemon | None, survey: Survey | None) -> dict[str, str]:
        """Return {check: fault, "" where there is none}."""
        if daemon is None or survey is None:
            return {"started": "it is still starting"}
        faults = {
            "started": "it is stopping" if daemon.stop.requested else "",
            "loop": "; ".join(self.live()["reasons"]),
            "warm": _cold(daemon),
            "feed": _silent(daemon),
            "streams": _unsent(daemon, survey),
        }
        if daemon.store is not None:
            trouble = daemon.store.trouble
            faults["store"] = f"the store cannot be written: {trouble}" if trouble else ""
        return faults


def _cold(daemon: Daemon) -> str:
    wanted = daemon.config.feed.streams
    warm, cold = warm_streams(daemon.session, wanted)
    if cold and (daemon.config.serve.ready == "all" or not warm):
        return f"not warm yet: {_joined(cold[:NAMED], len(cold), ', ')}"
    return "" if warm else "no stream is warm yet"


def _silent(daemon: Daemon) -> str:
    if daemon.staleness.stale:
        return f"the feed has been silent for {daemon.subscriber.idle_s:.1f} s"
    return "" if daemon.subscriber.counters.messages else "no message has come from the feed yet"


def _joined(first: Sequence[str], total: int, between: str) -> str:
    more = f" and {total - len(first)} more" if total > len(first) else ""
    return f"{between.join(first)}{more}"


def _unsent(daemon: Daemon, survey: Survey) -> str:
    """Return which streams do not send, "" where the policy is fulfilled."""
    if daemon.all_ended():
        return "every stream has ended"
    passed = ("ended",) if daemon.config.feed.streams else ("ended", "waiting")
    rows = [row for row, status in enumerate(survey.statuses) if status not in passed]
    sending = [row for row in rows if survey.sends(row)]
    if daemon.config.serve.ready == "any":
        cold = warm_streams(daemon.session, [survey.names[row] for row in sending])[1]
        if len(cold) < len(sending):
            return ""
    gone = sorted(set(rows) - set(sending))
    shown = [f"{survey.names[row]}: {survey.status(row).reason}" for row in gone[:NAMED]]
    return _joined(shown, len(gone), "; ")


WORST_FIRST: tuple[StatusName, ...] = ("late", "waiting", "ended", "live")


def _listed(daemon: Daemon, survey: Survey) -> dict[str, Any]:
    """Return the policy, and statuses with their reasons, the worst first."""
    rows = heapq.nsmallest(
        MOST_STREAMS,
        range(len(survey.names)),
        key=lambda row: WORST_FIRST.index(survey.statuses[row]),
    )
    streams = {survey.names[row]: survey.status(row) for row in rows}
    return {
        "policy": daemon.config.serve.ready,
        "streams": {
            name: {
                "status": status.name,
                "reason": status.reason,
                "age_s": _rounded(status.age_s),
                "usual_interval_s": _rounded(status.interval_s),
            }
            for name, status in streams.items()
        },
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


PREFIX = "stream_lstm_"

SESSION = {
    "elements": ("elements", "Elements accepted."),
    "ticks": ("ticks", "Ticks that a stream received, refused ones included."),
    "old_ticks": ("old_ticks", "Ticks with an old or a repeated time, accepted or refused."),
    "predictions": ("predictions", "Predictions made."),
    "labels": ("labels", "Labels that scored a prediction."),
    "positive_labels": ("positives", "Labels that were 1."),
    "correct_predictions": ("correct", "Labels that the model called correctly."),
    "expired_predictions": ("expired", "Predictions that expired without a label."),
    "updates": ("updates", "Updates of the weights."),
    "updates_rested": ("updates_rested", "Labels that caused no update because learning rested."),
    "rollbacks": ("rollbacks", "Roll-backs of learning."),
    "gaps": ("gaps", "Gaps in the sequence numbers."),
    "missed_ticks": ("missed", "Ticks lost in gaps."),
    "resets": ("resets", "Resets of a stream's state."),
    "pauses": ("pauses", "Breaks in the times of a stream that are longer than `pause`."),
    "labels_early": ("labels_early", "Labels from outside that arrived before their prediction."),
    "labels_revised": ("labels_revised", "Labels from outside that replaced another."),
}
"""Counters over all streams: metric, (field of `Counters`, `Scored` or `Totals`, meaning)."""

FEED = {
    "feed_messages": ("messages", "Messages that came from the feed."),
    "feed_heartbeats": ("heartbeats", "Heartbeats of the feed."),
    "feed_sessions": ("sessions", "Starts of publishers."),
    "feed_takeovers": ("takeovers", "Streams that another endpoint took over."),
    "feed_stale_spells": ("stale", "Times that the feed fell silent."),
    "recovery_requests": ("asked", "Requests for lost ticks."),
    "recovery_timeouts": ("timeouts", "Requests for lost ticks that timed out."),
    "recovery_overflows": ("overfull", "Overflows of the buffer that waits for lost ticks."),
    "recovered_ticks": ("recovered", "Ticks received in answer to a request."),
    "recovered_twice_ticks": ("overlaps", "Recovered ticks that also arrived live."),
    "unrecoverable_ticks": ("gone", "Requested ticks that the publisher no longer had."),
}
"""Counters of the feed: metric, (field of `FeedCounters`, meaning)."""

LABEL_REASONS = ("repeated", "disagreeing", "late", "unknown", "bad")
"""Counted each, as `labels_*`; the other refused labels are "unexpected"."""

AGAINST = ("coin", "base_rate", "last_label")


def about() -> Iterator[Metric]:
    """Yield the families that need no daemon."""
    info = GaugeMetricFamily(PREFIX + "build_info", "1, labelled.", labels=["version"])
    info.add_metric([__version__], 1)
    yield info


def health(state: Health) -> Iterator[Metric]:
    """Yield the health of the daemon."""
    yield gauge("ready", "1 if /readyz says so.", state.is_ready)
    yield gauge("loop_age_seconds", "Time since the loop was seen to turn.", state.loop_age_s)


def counts(daemon: Daemon) -> Iterator[Metric]:
    """Yield the counts over all streams."""
    total = totals(daemon.session)
    yield gauge("streams", "Known streams.", total.streams)
    yield gauge("warm_streams", "Streams past their warm-up.", total.warm)
    yield gauge("compile_seconds", "Time for compiling at the start.", daemon.compile_s)
    yield counter(
        "compilations_after_ready", "Programs compiled after the start.", daemon.compilations
    )
    values = asdict(total.counters) | asdict(total.scored) | asdict(total)
    for name, (field, words) in SESSION.items():
        yield counter(name, words, values[field])
    yield by_label(
        "log_loss_nats",
        "Log losses of the labels, summed.",
        "forecast",
        dict(zip(FORECASTS, total.scored.losses, strict=True)),
    )
    yield from _refusals(daemon, total)


def _refusals(daemon: Daemon, total: Totals) -> Iterator[Metric]:
    counters, feed = total.counters, daemon.subscriber.counters
    old = counters.old_ticks if daemon.config.stream.on_old_time == "refuse" else 0
    ticks = {
        "not_finite": counters.refused_ticks - old,
        "repeated": feed.repeats,
        "too_late": feed.old,
        "old_time": old,
    }
    labels = {reason: getattr(counters, f"labels_{reason}") for reason in LABEL_REASONS}
    labels["unexpected"] = max(counters.refused_labels - sum(labels.values()), 0)
    messages, peers = daemon.subscriber.intake.refused, daemon.security.counts()
    updates = {
        "not_finite": counters.updates_not_finite,
        "update_too_large": counters.updates_too_large,
        "weights_too_large": counters.weights_too_large,
    }
    families: tuple[tuple[str, str, Mapping[Any, float]], ...] = (
        ("refused_ticks", "Refused ticks.", ticks),
        ("refused_labels", "Refused labels from outside.", labels),
        ("refused_messages", "Messages refused as a whole.", {c: messages[c] for c in CAUSES}),
        ("refused_updates", "Refused updates.", updates),
        (
            "refused_peers",
            "Peers rejected or disconnected.",
            {reason: peers.get(reason, 0) for reason in get_args(Reason)},
        ),
    )
    for name, words, values in families:
        yield by_label(name, words, "reason", values)


def feed(daemon: Daemon) -> Iterator[Metric]:
    """Yield the counts and the state of the feed."""
    subscriber = daemon.subscriber
    for name, (field, words) in FEED.items():
        yield counter(name, words, getattr(subscriber.counters, field))
    yield gauge("feed_stale", "1 while the feed is silent.", daemon.staleness.stale)
    yield gauge(
        "feed_silence_seconds", "Time since the last message.", max(subscriber.idle_s, 0.0)
    )


def store(daemon: Daemon) -> Iterator[Metric]:
    """Yield the state of the store, if any."""
    if daemon.store is None:
        return
    figures = daemon.store.figures()
    yield gauge("store_healthy", "1 while the store can be written.", daemon.store.trouble is None)
    yield gauge(
        "store_waiting_bytes", "Bytes that wait to be written.", daemon.store.waiting_bytes
    )
    size, free = daemon.store.disk()
    yield gauge("store_bytes", "Size of the store and its log.", size)
    yield gauge("disk_free_bytes", "Free space beside the store.", free)
    yield counter("store_retries", "Failed writes that were retried.", figures["retries"])
    yield counter(
        "store_inputs_left_out", "Inputs that could not be stored.", figures["inputs_left_out"]
    )


def streams(daemon: Daemon) -> Iterator[Metric]:
    """Yield figures of the first streams, one series each."""
    listed = {label(stream.name): stream for stream in first_streams(daemon.session)}
    for name, words, values in (
        ("elements", "Elements of a stream.", {k: s.elements for k, s in listed.items()}),
        ("labels", "Labels of a stream.", {k: s.scored.labels for k, s in listed.items()}),
        (
            "correct_predictions",
            "Correct calls of a stream.",
            {k: s.scored.correct for k, s in listed.items()},
        ),
    ):
        yield by_label(f"stream_{name}", words, "stream", values)
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
    for name, stream in listed.items():
        for forecast, loss in zip(FORECASTS, stream.scored.losses, strict=True):
            losses.add_metric([name, forecast], loss)
        for against, log_e in zip(AGAINST, stream.evidence, strict=True):
            evidence.add_metric([name, against], log_e)
    yield losses
    yield evidence
    yield from statuses(daemon)


def statuses(daemon: Daemon) -> Iterator[Metric]:
    """Yield how many streams have each status, and the ages of the first that have not ended."""
    survey = daemon.statuses.survey()
    counted = Counter(survey.statuses)
    by_status = GaugeMetricFamily(
        PREFIX + "streams_by_status", "Streams with this status.", labels=["status"]
    )
    for status in WORST_FIRST:
        by_status.add_metric([status], counted[status])
    ages = GaugeMetricFamily(
        PREFIX + "stream_age_seconds", "Time since a stream's last tick.", labels=["stream"]
    )
    usual = GaugeMetricFamily(
        PREFIX + "stream_usual_interval_seconds",
        "Usual time between a stream's ticks, at least 1 s.",
        labels=["stream"],
    )
    for row, name in enumerate(survey.names[:MOST_STREAMS]):
        one = survey.status(row)
        if one.age_s is not None:
            ages.add_metric([label(name)], one.age_s)
        if one.age_s is not None and one.interval_s is not None:
            usual.add_metric([label(name)], one.interval_s)
    yield from (by_status, ages, usual)


def times(timings: Timings) -> Iterator[Metric]:
    """Yield the histograms."""
    for name, words, histogram in (
        (
            "tick_to_publish_seconds",
            "From receiving a message to publishing the prediction that it made due.",
            timings.tick_to_publish,
        ),
        (
            "queue_age_seconds",
            "Longest time that such a message can have waited in the socket.",
            timings.queue_age,
        ),
        ("update_seconds", "One update of the weights.", timings.update),
    ):
        family = HistogramMetricFamily(PREFIX + name, words)
        family.add_metric([], histogram.buckets(), histogram.sum_ns / 1e9)
        yield family
    family = HistogramMetricFamily(
        PREFIX + "step_seconds", "One call into the network (sampled).", labels=["call"]
    )
    for kind, histogram in timings.step.items():
        family.add_metric([kind], histogram.buckets(), histogram.sum_ns / 1e9)
    yield family


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


HOME = b"stream-lstm: /metrics for Prometheus, /livez, /readyz\n"


class Monitor(Closing):
    """Serves the pages of a daemon; a context manager.

    config: the table `serve`, with an address. insecure: allow other machines. dropped: returns
    the number of dropped log lines. say: takes a line for people. clock: seconds, monotonic, the
    same as the daemon's.

    `address` is the actual one. Raises the errors of `web.bind`.
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

    def attach(self, daemon: Daemon) -> None:
        """Serve the figures of a daemon that is about to run."""
        self._stack.enter_context(self.timings)
        self.timings.attach(daemon, self._clock)
        self.health.attach(daemon)
        self._daemon = daemon

    # ---- in the server's thread -------------------------------------------------------

    def respond(self, path: str, headers: Mapping[str, str]) -> Page | None:
        """Return the page of a path, None for an unknown one."""
        match path:
            case "/metrics":
                encode, kind = choose_encoder(headers.get("accept", ""))
                page = Page(200, kind, encode(self._registry))
                self.scrapes += 1
                return page
            case "/livez":
                live = self.health.live()
                return _page(live, ok=live["live"])
            case "/readyz":
                ready = self.health.ready()
                return _page(ready, ok=ready["ready"])
            case "/":
                return Page(200, "text/plain; charset=utf-8", HOME)
        return None

    def collect(self) -> Iterator[Metric]:
        """Yield all families with their present values."""
        yield from about()
        yield from health(self.health)
        yield counter("scrapes", "Answered scrapes.", self.scrapes)
        yield counter("scrape_errors", "Pages that failed.", self.errors)
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


def _page(body: dict[str, Any], *, ok: bool) -> Page:
    return Page(200 if ok else 503, "application/json", json_line(body).encode() + b"\n")
