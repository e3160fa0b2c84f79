"""The loop of the live service: it joins feed, session, publisher and store in one thread.

Events from the feed enter the session. A prediction is published before any other work; scores
follow, and observers receive every record in order. Observers count and display: the loop calls
them, so they must be quick. Slower work, such as a table on the terminal, is a periodic task that
runs between two messages. Garbage is collected in pauses (`Collector`).

A tick that publishes nothing waits in the session. The session catches up when no message came for
`PAUSE_S`, when `MAX_WAITING` ticks wait, before periodic tasks, and at the end. Only then does the
store receive these ticks, with their results.

Single ticks of many streams that arrive together enter the session as columns, where the session
supports it; long runs of one stream enter as blocks. All ways give the same bits.

After a stop the loop reads no more from the socket and works off what it has read for up to
`GRACE_S`: a backlog with large weights could take minutes. For the same reason a block is pushed
in pieces.

The loop ends when the stop switch is set, when every stream has ended (if requested), or with an
EndpointError after `idle_timeout` seconds without a message. Each time an end is published for
every stream. The clock is injected; data never depends on it.

Heartbeats of the published predictions come from this loop and not from a thread, because they
prove that the loop runs; they also report a silent feed. The `seq` of a heartbeat is the number of
the stream's next element, its session the publisher's run. Many streams take turns, so that a
heartbeat delays a tick only briefly.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import chain
from typing import Any, TypeAlias

import msgspec
import numpy as np

from ..closing import Closing
from ..config import Config, Members
from ..core.missing import optional_columns
from ..core.session import Arrivals, Session
from ..core.table import N
from ..errors import EndpointError
from ..events import (
    End,
    Fresh,
    Gap,
    Input,
    Label,
    Notice,
    OldTimes,
    Output,
    Refusal,
    Run,
    Score,
    SessionStart,
    Stale,
    Takeover,
    Ticks,
)
from ..feed.declared import Received
from ..feed.predictions import PredictionPublisher
from ..feed.security import Security
from ..feed.subscriber import Subscriber
from ..model.engine import Engine
from ..schema import FeedConfig
from ..store.store import REPORT_S, Store
from ..store.units import Settle
from .logs import PERIOD_S, OldTimesBatch, Staleness, old_times
from .runtime import Collector, compilations
from .signals import StopSwitch
from .status import CHECK_S, StreamStatuses, Survey

HEARTBEAT_PERIOD_S = 1.0

STREAMS_A_BEAT = 100
"""Streams in one heartbeat task: half a millisecond of sending."""


class Heartbeats:
    """Sends the heartbeats and the ends of a session's streams.

    stale: whether the feed is silent. survey: returns the statuses of streams.
    """

    def __init__(
        self,
        publisher: PredictionPublisher,
        session: Session,
        stale: Callable[[], bool],
        survey: Callable[[Sequence[str]], Survey],
    ) -> None:
        self._publisher, self._session = publisher, session
        self._stale, self._survey = stale, survey
        self._next: list[str] = []

    def beat(self) -> None:
        """Catch up, and send the heartbeats of the next streams in turn."""
        self._session.catch_up()
        if not self._next:
            self._next = self._session.table.names[::-1]
        stale, names = self._stale(), self._next[: -STREAMS_A_BEAT - 1 : -1]
        survey = self._survey(names)
        statuses = dict(zip(survey.names, survey.statuses, strict=True))
        for name in names:
            n, run_id = self._reached(name)
            status = statuses.get(name, "")
            self._publisher.heartbeat(name, n + 1, run_id=run_id, stale=stale, status=status)
        del self._next[-STREAMS_A_BEAT:]

    def end(self) -> None:
        """Send the end of every stream."""
        self._session.catch_up()
        for name in self._session.table.names:
            n, run_id = self._reached(name)
            self._publisher.end(name, n + 1, run_id=run_id)

    def _reached(self, name: str) -> tuple[int, str]:
        """Return the number of elements of a stream and its publisher's run id."""
        table = self._session.table
        row = table.places[name]
        return int(table.view[row, N]), table.sources[row]


class _Task(msgspec.Struct):
    due: float
    period_s: float
    work: Callable[[], object]


class PeriodicTasks:
    """Tasks with a period each; `due` is the time of the next one, in seconds of the clock."""

    def __init__(self) -> None:
        self._tasks: list[_Task] = []
        self.due = float("inf")

    def add(self, now: float, period_s: float, work: Callable[[], object]) -> None:
        """Run `work` every `period_s` seconds, first a period after `now`."""
        self._tasks.append(_Task(now + period_s, period_s, work))
        self.due = min(self.due, now + period_s)

    def run(self, now: float) -> None:
        """Run the tasks that are due; missed periods are skipped."""
        for task in self._tasks:
            if task.due <= now:
                task.due = now + task.period_s
                task.work()
        self.due = min((task.due for task in self._tasks), default=self.due)


PIECE, PLAIN_PIECE = 512, 4096
"""Rows of a pushed piece: 20 ms with learning, 5 ms without, so that a stop is prompt."""

MAX_WAITING = 4096
"""Ticks that may wait while more are in the socket: 20 ms of work."""

PAUSE_S = 0.001
"""Time without a message before waiting ticks are stepped, the shortest wait of a poll: the tick
that publishes often follows immediately, and steps all of them in one call."""

MANY = 32
"""Streams whose ticks arrived together from which columns are faster."""

GRACE_S = 2.0
"""Time for the ticks in hand at a stop; sending the last messages may take two more seconds."""

REPUBLISH_WAIT_S = 5.0
"""Time for a subscriber to reconnect before predictions are published again."""

LONGEST_WAIT_S = 1.0
"""Longest poll. Every event wakes it; this bounds the cost of a missing wake-up."""

Observer: TypeAlias = Callable[[Input | Output | Notice], object]


class Daemon(Closing):
    """Feed, session and publisher of a configuration, ready to run.

    columns: names of the values of a tick. stop: ends `run`. observers: receive every event in
    and out, except ticks. on_input: receives every input, ticks too. store: restores the session,
    and also receives ticks. republish: publish again the predictions that follow the store's last
    snapshot. weights, scaler, members, engine: see `Session`. security: keys and limits of the
    sockets, by default from the configuration. clock: seconds, monotonic.

    Compiles everything, then opens the sockets. Raises ConfigurationError for settings that do not
    fit together, and EndpointError for an endpoint that cannot be bound or connected to.
    """

    def __init__(
        self,
        config: Config,
        columns: Sequence[str],
        *,
        stop: StopSwitch,
        observers: Iterable[Observer] = (),
        on_input: Callable[[Input], object] | None = None,
        store: Store | None = None,
        republish: bool = False,
        weights: Mapping[str, Mapping[str, Any]] | None = None,
        scaler: Any = None,
        members: Members | None = None,
        engine: Engine | None = None,
        security: Security | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.stop = stop
        self.store = store
        self._observers: tuple[Observer, ...] = tuple(observers)
        self._on_input = on_input
        self._clock = clock
        self._ended: set[str] = set()
        self._stop_by: float | None = None
        self._closing = ExitStack()
        self.tasks = PeriodicTasks()
        started = clock()
        self.session = Session(
            config,
            columns,
            self._emit,
            weights=weights,
            scaler=scaler,
            members=members,
            engine=engine,
        )
        self._compiling: threading.Thread | None = None
        if len(config.feed.streams) >= MANY and self.session.columnar:
            self._compile_columns().join()
        self.compile_s = clock() - started
        self._waiting = 0
        resumed = None if store is None else store.begin(self.session)
        self._old_times = OldTimesBatch(self._notice)
        if config.stream.on_old_time == "warn":
            self.session.on_old = self._old_times
            self.every(PERIOD_S, self._old_times.tend)
        self._republish = resumed.predictions if resumed is not None and republish else []
        self.security = security or Security(config.security)
        self.publisher: PredictionPublisher | None = None
        self._heartbeats: Heartbeats | None = None
        if config.publish.publish:
            self.publisher = PredictionPublisher(
                config.publish.publish, config.publish.encoding, security=self.security
            )
            self._closing.enter_context(self.publisher)
            self.session.publish = self.publisher.publish
        feed = msgspec.structs.replace(config.feed, columns=tuple(columns))
        try:
            self.subscriber = Subscriber(
                feed,
                optional=optional_columns(config.stream, columns),
                independent=self.session.independent,
                clock=clock,
                wakeup_fd=self.stop.fileno(),
                security=self.security,
            )
            self._closing.enter_context(self.subscriber)
            # ticks since the end of the store; those that do not come count as missed
            for stream, position in store.positions.items() if store is not None else ():
                self.subscriber.resume(stream, position.run_id, position.next_seq)
        except BaseException:
            self._closing.close()
            raise
        self.staleness = Staleness(self.subscriber, feed, self._notice, self.all_ended)
        self.every(self.staleness.period_s, self.staleness.check)
        heard = self.subscriber.intake.heard
        self.statuses = StreamStatuses(self.session, self._ended, heard, feed.heartbeat_s, clock)
        self.every(CHECK_S, self.statuses.check)
        if self.publisher is not None:
            self._heartbeats = Heartbeats(
                self.publisher, self.session, lambda: self.staleness.stale, self.statuses.of
            )
            self.every(HEARTBEAT_PERIOD_S, self._heartbeats.beat)
        if store is not None:
            self.every(REPORT_S, store.report)
        self._compiled = compilations()

    def _compile_columns(self) -> threading.Thread:
        """Compile the loop over many streams in a thread; most daemons never need it."""
        session = self.session
        self._compiling = threading.Thread(target=lambda: session.engine.table, name="compile")
        self._compiling.start()
        self._closing.callback(self._compiling.join)
        return self._compiling

    @property
    def compilations(self) -> int:
        """Programs that this process compiled since the construction.

        0, or the two that step many streams if so many arrive without being configured.
        """
        return compilations() - self._compiled

    @property
    def columnar(self) -> bool:
        """Whether ticks of many streams enter in columns; starts the compilation when needed."""
        if self._compiling is None:
            if not self.session.columnar or len(self.session.table) < MANY:
                return False
            self._compile_columns()
        return self._compiling is not None and not self._compiling.is_alive()

    def every(self, period_s: float, work: Callable[[], object]) -> None:
        """Run `work` in the loop every `period_s` seconds."""
        self.tasks.add(self._clock(), period_s, work)

    def reconfigure(self, feed: FeedConfig) -> None:
        """Apply the settings of `feed` that can change: `idle_timeout`, `max_streams`."""
        changed = msgspec.structs.replace(
            self.config.feed, idle_timeout=feed.idle_timeout, max_streams=feed.max_streams
        )
        self.config = msgspec.structs.replace(self.config, feed=changed)
        self.subscriber.intake.max_streams = feed.max_streams

    def run(self, *, until_end: bool = False) -> None:
        """Serve until the switch is set or, with `until_end`, until every stream has ended.

        The streams are the configured ones or, where none are, those seen so far. Raises
        EndpointError when nothing comes for the configured `idle_timeout`.
        """
        ended = False
        try:
            with Collector(self._clock) as collector:
                self._publish_again()
                ended = self._loop(until_end, collector)
        finally:
            # with a store, the next start waits for labels that may still be revised
            if ended or self.store is None:
                self.session.settle()
                if self.store is not None:
                    self.store.add(Settle())
                    self.store.flush()
            self._old_times.tend()
            if self._heartbeats is not None:
                self._heartbeats.end()

    def _publish_again(self) -> None:
        """Publish the predictions of `republish` again, after waiting for a subscriber."""
        if self.publisher is None or not self._republish:
            return
        with suppress(EndpointError):
            self.publisher.wait_for_subscribers(1, REPUBLISH_WAIT_S)
        for prediction in self._republish:
            self.publisher.publish(prediction)
        self._republish = []

    def _loop(self, until_end: bool, collector: Collector) -> bool:
        """Work until the switch is set; return whether the streams ended before."""
        subscriber, clock, tasks = self.subscriber, self._clock, self.tasks
        while not self.stop.requested:
            events = subscriber.receive(self._wait_s())
            self._take_all(events)
            if self._waiting and (not events or self._waiting >= MAX_WAITING):
                self._catch_up()
            now = clock()
            if now >= tasks.due:
                self._catch_up()
                tasks.run(now)
            if events:
                if until_end and self.all_ended():
                    self._catch_up()
                    return True
            elif self._idle_left_s() <= 0:
                raise EndpointError(self._idle_message())
            collector.run(lambda: not subscriber.waiting)
        self._catch_up()
        return False

    def _catch_up(self) -> None:
        """Step over the waiting ticks, and store them."""
        self.session.catch_up()
        if self.store is not None:
            self.store.flush()
        self._waiting = 0

    def _wait_s(self) -> float:
        longest_s = PAUSE_S if self._waiting else LONGEST_WAIT_S
        wait_s = min(self.tasks.due - self._clock(), longest_s, self._idle_left_s())
        return max(wait_s, 0.0)

    def _idle_left_s(self) -> float:
        idle_timeout = self.config.feed.idle_timeout
        return idle_timeout - self.subscriber.idle_s if idle_timeout else math.inf

    def _out_of_time(self) -> bool:
        """Return whether the time for the ticks in hand after a stop is over."""
        if not self.stop.requested:
            return False
        if self._stop_by is None:
            self._stop_by = self._clock() + GRACE_S
        return self._clock() >= self._stop_by

    # ---- in ---------------------------------------------------------------------------

    def _take_all(self, events: Sequence[Received]) -> None:
        if len(events) >= MANY and self.columnar:
            self._take_columns(events)
            return
        for event in events:
            if self._out_of_time():
                return
            self._take(event)

    def _take(self, event: Received) -> None:
        match event:
            case Run():
                self._tick(event)
                return
            case Ticks():
                self._push(event)
                return
            case Refusal():
                self._observe(event)
                return
            case Takeover():
                self._notice(event)
                return
            case Label():
                self.session.label(event)
            case Gap():
                self.session.gap(event)
            case SessionStart():
                self._ended.discard(event.stream)
                self.session.session_start(event)
            case End():
                self._ended.add(event.stream)
        self._queue(event, 1)
        for observer in self._observers:
            observer(event)

    def _queue(self, event: Input, ticks: int, made: int = 0) -> None:
        """Queue an input for the store until the session has caught up with it."""
        self._waiting += ticks
        if self._on_input is not None:
            self._on_input(event)
        if self.store is not None:
            self.store.add(event, made)

    def _tick(self, run: Run) -> None:
        """Push a few ticks singly."""
        tick, made = self.session.tick, 0
        for t_ns, values in zip(run.times, run.rows, strict=True):
            made += tick(run.stream, t_ns, values, run.session, run.seq, run.where)
        self._queue(run, len(run.times), made)

    def _push(self, ticks: Ticks) -> None:
        count, size = len(ticks.t_ns), PLAIN_PIECE if self.session.plain else PIECE
        for start in range(0, count, size):
            if self._out_of_time():
                return
            part = ticks if count <= size else _piece(ticks, start, size)
            self._queue(part, len(part.t_ns), self.session.push(part))
            if self._waiting >= MAX_WAITING:
                self._catch_up()

    def _take_columns(self, events: Sequence[Received]) -> None:
        """Take events; consecutive runs of different streams are one call."""
        group: dict[str, Run] = {}
        for event in events:
            if self._out_of_time():
                return
            if isinstance(event, Run):
                if event.stream in group:
                    self._push_columns(group)
                    group = {}
                group[event.stream] = event
                continue
            self._push_columns(group)
            group = {}
            self._take(event)
        self._push_columns(group)

    def _push_columns(self, group: Mapping[str, Run]) -> None:
        """Push runs of different streams, in columns where that is faster."""
        session, runs = self.session, list(group.values())
        sent = {(run.session, run.seq is None) for run in runs}
        rows = [session.place(run.stream) for run in runs] if len(runs) >= MANY else []
        if not rows or len(sent) > 1 or min(rows) < 0:
            for run in runs:
                self._tick(run)
            return
        self._catch_up()
        counts = [len(run.times) for run in runs]
        starts = np.cumsum([0, *counts[:-1]]).tolist()
        origins = [(start, run.where) for start, run in zip(starts, runs, strict=True)]
        t_ns = np.array(list(chain.from_iterable([run.times for run in runs])), np.int64)
        flat = list(chain.from_iterable(chain.from_iterable([run.rows for run in runs])))
        values = np.array(flat, np.float64).reshape(len(t_ns), -1)
        numbered, places = runs[0].seq is not None, np.array(rows)
        before = session.table.ints[places, N]
        session.arrive(
            Arrivals(np.repeat(places, counts), t_ns, values, runs[0].session, numbered, origins)
        )
        if self._on_input is not None:
            for run in runs:
                self._on_input(run)
        if self.store is not None:
            self.store.add_runs(runs, (session.table.ints[places, N] - before).tolist())
        self._waiting += len(t_ns)

    def all_ended(self) -> bool:
        """Return whether the publisher of every wanted stream announced its end."""
        wanted = self.config.feed.streams or self.session.table.names
        return bool(self._ended) and self._ended.issuperset(wanted)

    def _idle_message(self) -> str:
        feed = self.config.feed
        names = ", ".join(feed.streams)
        topics = f" and sends the streams {names}" if names else ""
        other = ""
        if not self.subscriber.counters.messages and feed.payload == "record":
            other = "; for a feed with topics other than tick/NAME/ see 'stream-lstm listen'"
        endpoints = ", ".join(self.subscriber.endpoints)
        return (
            f"nothing has come from {endpoints} for {feed.idle_timeout:g} s: check "
            f"that the publisher runs, binds this endpoint{topics}, or raise idle_timeout{other}; "
            "see 'stream-lstm help wire'"
        )

    # ---- out --------------------------------------------------------------------------

    def _emit(self, event: Output) -> None:
        if self.publisher is not None and type(event) is Score:
            self.publisher.publish_score(event)
        self._observe(event)

    def _observe(self, event: Output) -> None:
        if self.store is not None:
            self.store(event)
        for observer in self._observers:
            observer(event)

    def _notice(self, notice: Notice) -> None:
        """Report a feed that falls silent or returns, a new owner of a stream, or old ticks."""
        if (store := self.store) is not None:
            match notice:
                case Takeover(stream, owner, to):
                    store.note("takeover", stream, f"from {owner} to {to}")
                case OldTimes():
                    store.note("old tick", notice.stream, old_times(notice), times=notice.count)
                case Stale() | Fresh():
                    kind = "stale" if isinstance(notice, Stale) else "fresh"
                    store.note(kind, reason=f"{notice.silent_s:.1f} s without a message")
        for observer in self._observers:
            observer(notice)

    def at_close(self, work: Callable[[], object]) -> None:
        """Call `work` when the daemon is closed, before its sockets are."""
        self._closing.callback(work)

    def close(self) -> None:
        """Close the sockets; unsent messages have two seconds."""
        self._closing.close()


def _piece(ticks: Ticks, start: int, size: int) -> Ticks:
    return msgspec.structs.replace(
        ticks,
        t_ns=ticks.t_ns[start : start + size],
        values=ticks.values[start : start + size],
        seq=None if ticks.seq is None else ticks.seq + start,
    )
