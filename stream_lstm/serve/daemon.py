"""The loop of the live service, which joins feed, session and prediction publisher.

What the feed gives goes into the session; what comes out of it goes to the publisher at once, and
then to the observers. One thread does everything. The session calls back with each event as it
comes to be, so that a prediction has left before the update runs that its predecessor's label
causes. Observers are for counting and showing: they are called in the loop and must be quick.
What takes longer, such as drawing a table, is a chore, done between two messages at its period.
Garbage is collected where nothing is waiting; see `collector`.

After a stop nothing more is taken from the socket, and what had been taken is worked off for as
long as `GRACE_S` allows: a backlog with large weights could take minutes. For the same reason a
block is pushed in pieces, which change no bit of the result.

It ends when the stop switch is set, when every stream has ended (if asked to), or with an
EndpointError when nothing has come for `idle_timeout` seconds. In every case an end is published
for each stream. The clock is injected; data never depends on it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from ..closing import Closing
from ..config import Config
from ..core.fleet import Fleet
from ..core.session import Session
from ..core.sessions import session_for
from ..errors import EndpointError
from ..events import (
    End,
    Gap,
    Input,
    Label,
    Notice,
    Output,
    Prediction,
    Refusal,
    Score,
    SessionStart,
    Stale,
    Ticks,
)
from ..feed.drain import Received
from ..feed.predictions import PredictionPublisher
from ..feed.security import Security
from ..feed.subscriber import Subscriber
from ..members import Members
from ..model.engine import Engine
from ..store.store import TEND_S, Store
from ..store.units import Settle
from ..tables import FeedConfig
from .chores import Chores
from .collector import Collector
from .heartbeats import PERIOD_S, Heartbeats
from .staleness import Staleness
from .stop import StopSwitch

PIECE = 512
"""Rows pushed at a time: with learning some 20 ms, so that a stop is prompt."""

GRACE_S = 2.0
"""For what is in hand at a stop; sending the last messages may take two more of the five."""

AGAIN_S = 5.0
"""For a subscriber to come back after a restart, before predictions are published once more."""

LONGEST_WAIT_S = 1.0
"""Of one poll. Everything that matters wakes it; this only bounds what we overlooked."""

Observer: TypeAlias = Callable[[Input | Output | Notice], object]


class Daemon(Closing):
    """Feed, session and publisher of a configuration, ready to run.

    columns: names of the values of a tick. stop: ends `run`. observers: called with every event
    that comes in or out, but for ticks. store: brings the session back, and is called with ticks
    too. republish: publish once more what the store's journal leads to behind its last snapshot.
    weights, scaler, members, engine: see `Session`.
    security: keys and limits of the sockets; made of the configuration if None. clock: seconds,
    monotonic.

    Compiles everything first and opens the sockets then. Raises ConfigurationError for what does
    not fit, and EndpointError for an endpoint that cannot be bound or connected to.
    """

    def __init__(
        self,
        config: Config,
        columns: Sequence[str],
        *,
        stop: StopSwitch,
        observers: Iterable[Observer] = (),
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
        self._clock = clock
        self._ended: set[str] = set()
        self._stop_by: float | None = None
        self.chores = Chores()
        started = clock()
        self.session = session_for(
            config,
            columns,
            self._emit,
            weights=weights,
            scaler=scaler,
            members=members,
            engine=engine,
        )
        self.compile_s = clock() - started
        resumed = None
        if store is not None:
            assert isinstance(self.session, Session)
            resumed = store.begin(self.session)
        self._again = resumed.predictions if resumed is not None and republish else []
        self.security = security or Security(config.security)
        self.publisher: PredictionPublisher | None = None
        self._heartbeats: Heartbeats | None = None
        if config.publish.publish:
            self.publisher = PredictionPublisher(
                config.publish.publish, config.publish.encoding, security=self.security
            )
            self._heartbeats = Heartbeats(self.publisher, self.session, self._is_stale)
            self.every(PERIOD_S, self._heartbeats.beat)
        feed = msgspec.structs.replace(config.feed, columns=tuple(columns))
        # One stream's update changes what another is predicted with where weights are shared.
        apart = not config.learning.learn or config.model.sharing == "per-stream"
        try:
            self.subscriber = Subscriber(
                feed,
                apart=apart,
                clock=clock,
                wakeup_fd=self.stop.fileno(),
                security=self.security,
            )
            self._resume_feed()
        except BaseException:
            self._close_publisher()
            raise
        self.staleness: Staleness = Staleness(self.subscriber, feed, self._notice, self._all_ended)
        self.every(self.staleness.period_s, self.staleness.look)
        if store is not None:
            self.every(TEND_S, store.tend)

    def _resume_feed(self) -> None:
        """Have what was missed since the store ends asked for, or else count as missed."""
        for stream, position in self.store.positions.items() if self.store is not None else ():
            self.subscriber.resume(stream, position.session, position.next_seq)

    def every(self, period_s: float, work: Callable[[], object]) -> None:
        """Have `work` done in the loop every `period_s` seconds."""
        self.chores.add(self._clock(), period_s, work)

    def reconfigure(self, feed: FeedConfig) -> None:
        """Take over what of `feed` can change while running: `idle_timeout`, `max_streams`."""
        kept = msgspec.structs.replace(
            self.config.feed, idle_timeout=feed.idle_timeout, max_streams=feed.max_streams
        )
        self.config = msgspec.structs.replace(self.config, feed=kept)
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
            # With a store, what may still be revised is for the next start to wait for.
            if ended or self.store is None:
                self._settle()
            if self._heartbeats is not None:
                self._heartbeats.end()

    def _publish_again(self) -> None:
        """Publish what was asked to be published once more, once there is somebody to hear it."""
        if self.publisher is None or not self._again:
            return
        with contextlib.suppress(EndpointError):
            self.publisher.wait_for_subscribers(1, AGAIN_S)
        for prediction in self._again:
            self.publisher.publish(prediction)
        self._again = []

    def _settle(self) -> None:
        """Let the labels that may be revised count now."""
        self.session.settle()
        if self.store is not None:
            self.store(Settle())

    def _loop(self, until_end: bool, collector: Collector) -> bool:
        """Work until the switch is set; return whether the streams' end came before."""
        receive, clock, chores = self.subscriber.receive, self._clock, self.chores
        while not self.stop.requested:
            events = receive(self._wait_s())
            if isinstance(self.session, Fleet):
                self._take_together(self.session, events)
            else:
                for event in events:
                    if self._must_leave():
                        break
                    self._take(event)
            now = clock()
            if now >= chores.due:
                chores.run(now)
            if events:
                if until_end and self._all_ended():
                    return True
            elif self._idle_left_s() <= 0:
                raise EndpointError(self._idle_message())
            collector.turn(self._pausing)
        return False

    def _pausing(self) -> bool:
        return not self.subscriber.waiting

    def _wait_s(self) -> float:
        wait_s = min(self.chores.due - self._clock(), LONGEST_WAIT_S, self._idle_left_s())
        return max(wait_s, 0.0)

    def _idle_left_s(self) -> float:
        idle_timeout = self.config.feed.idle_timeout
        return idle_timeout - self.subscriber.idle_s if idle_timeout else math.inf

    def _must_leave(self) -> bool:
        """Return whether a stop was asked for and what is in hand has had its time."""
        if not self.stop.requested:
            return False
        if self._stop_by is None:
            self._stop_by = self._clock() + GRACE_S
        return self._clock() >= self._stop_by

    # ---- what comes in ----------------------------------------------------------------

    def _take(self, event: Input | Refusal) -> None:
        if isinstance(event, Ticks):
            self._push(event)
            return
        match event:
            case Label():
                self.session.label(event)
            case Gap():
                self.session.gap(event)
            case SessionStart():
                self._ended.discard(event.stream)
                self.session.session_start(event)
            case End():
                self._ended.add(event.stream)
        self._observe(event)

    def _take_together(self, fleet: Fleet, events: Sequence[Received]) -> None:
        """Take events; ticks that follow each other, of whatever streams, become one block."""
        waiting: list[Ticks] = []
        for event in events:
            if isinstance(event, Ticks):
                waiting.append(event)
                continue
            fleet.ticks(waiting)
            waiting = []
            self._take(event)
        fleet.ticks(waiting)

    def _push(self, ticks: Ticks) -> None:
        session = self.session
        if isinstance(session, Fleet):
            session.ticks([ticks])
            return
        if len(ticks.t_ns) <= PIECE:
            self._push_piece(session, ticks)
            return
        for start in range(0, len(ticks.t_ns), PIECE):
            if self._must_leave():
                return
            self._push_piece(session, _piece(ticks, start))

    def _push_piece(self, session: Session, ticks: Ticks) -> None:
        session.push(ticks)
        if self.store is not None:
            self.store(ticks)

    def _all_ended(self) -> bool:
        wanted = self.config.feed.streams or self.session.streams
        return bool(self._ended) and self._ended.issuperset(wanted)

    def _idle_message(self) -> str:
        names = ", ".join(self.config.feed.streams)
        topics = f" and sends the streams {names}" if names else ""
        return (
            f"nothing has come from {', '.join(self.config.feed.connect)} for "
            f"{self.config.feed.idle_timeout:g} s: check that the publisher runs, binds this "
            f"endpoint{topics}, or raise idle_timeout"
        )

    # ---- what goes out ----------------------------------------------------------------

    def _emit(self, event: Output) -> None:
        if self.publisher is not None:
            if isinstance(event, Prediction):
                self.publisher.publish(event)
            elif isinstance(event, Score):
                self.publisher.publish_score(event)
        self._observe(event)

    def _observe(self, event: Input | Output) -> None:
        if self.store is not None:
            self.store(event)
        for observer in self._observers:
            observer(event)

    def _is_stale(self) -> bool:
        return self.staleness.stale

    def _notice(self, notice: Notice) -> None:
        """Tell that the feed has fallen silent, or is back."""
        if self.store is not None:
            kind = "stale" if isinstance(notice, Stale) else "fresh"
            self.store.note(kind, reason=f"{notice.silent_s:.1f} s without a message")
        for observer in self._observers:
            observer(notice)

    # ---- the end ----------------------------------------------------------------------

    def _close_publisher(self) -> None:
        if self.publisher is not None:
            self.publisher.close()

    def close(self) -> None:
        """Close the sockets; what was published has two seconds to leave."""
        self.subscriber.close()
        self._close_publisher()


def _piece(ticks: Ticks, start: int) -> Ticks:
    return msgspec.structs.replace(
        ticks,
        t_ns=ticks.t_ns[start : start + PIECE],
        values=ticks.values[start : start + PIECE],
        seq=None if ticks.seq is None else ticks.seq + start,
    )
