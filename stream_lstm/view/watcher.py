"""Listens to a daemon's published records in a thread, and keeps a track of each stream.

Whether what a live page shows is of now, in words: it never stands still without saying so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from ..core.verdict import count
from ..errors import StreamLSTMError
from ..events import End, Prediction, Score
from ..feed.predictions import Output, PredictionSubscriber
from ..records import Batch
from .history import History
from .track import Track
from .words import moment

SILENT_S = 5.0
"""A daemon sends a heartbeat every second."""

S = 1e9


class Status(NamedTuple):
    """A sentence; `bad` where what is shown is not of now. `silent` asks for a band.

    `unheard` says that it is the daemon of which nothing comes.
    """

    text: str
    bad: bool
    silent: bool = False
    unheard: bool = False


class Liveness:
    """What was last heard of a daemon.

    Times are nanoseconds since 1970, passed in. endpoint: where it publishes.
    """

    def __init__(self, endpoint: str, now_ns: int) -> None:
        self._endpoint = endpoint
        self._began_ns = now_ns
        self._heard_ns = 0
        self._stale_since_ns = 0
        self._predicted_ns: dict[str, int] = {}
        self._ended_ns: dict[str, int] = {}

    def hear(self, now_ns: int, *, stale: bool) -> None:
        """Note that a message came; stale: whether the daemon's own feed has fallen silent."""
        self._heard_ns = now_ns
        self._stale_since_ns = (self._stale_since_ns or now_ns) if stale else 0

    def predict(self, stream: str, now_ns: int) -> None:
        """Note that a prediction of a stream came."""
        self._predicted_ns[stream] = now_ns
        self._ended_ns.pop(stream, None)

    def end(self, stream: str, now_ns: int) -> None:
        """Note that the daemon has said that nothing more will come of a stream."""
        self._ended_ns[stream] = now_ns

    def status(self, stream: str, now_ns: int) -> Status:
        """Return how it stands with a stream, "" for that none is known yet."""
        if not self._heard_ns:
            waited = _seconds(now_ns - self._began_ns)
            text = f"Nothing has come from {self._endpoint} yet, for {waited}: is a daemon there?"
            unheard = now_ns - self._began_ns > SILENT_S * S
            return Status(text, bad=unheard, unheard=unheard)
        predicted = self._predicted_ns.get(stream, 0)
        last = f"the last prediction came at {moment(predicted)}" if predicted else ""
        ended = self._ended_ns.get(stream)
        if ended is not None:
            return Status(_joined(f"The stream ended at {moment(ended)}", last), bad=True)
        quiet_ns = now_ns - self._heard_ns
        if quiet_ns > SILENT_S * S:
            text = f"No data since {moment(self._heard_ns)}, for {_seconds(quiet_ns)}: the daemon "
            text += f"at {self._endpoint} is not heard"
            return Status(_joined(text, last), bad=True, silent=True, unheard=True)
        if self._stale_since_ns:
            text = "The daemon runs and its feed is silent: no data since "
            text += f"{moment(self._stale_since_ns)} or before"
            return Status(_joined(text, last), bad=True, silent=True)
        if not predicted:
            return Status("The daemon is heard; no prediction has come since then.", bad=False)
        return Status(f"Live; the last prediction came {_ago(now_ns - predicted)}.", bad=False)


def _joined(text: str, last: str) -> str:
    return f"{text}; {last}." if last else f"{text}."


def _seconds(ns: int) -> str:
    return count(round(ns / S), "seconds")


def _ago(ns: int) -> str:
    return f"{_seconds(ns)} ago" if ns >= S else "just now"


MAX_STREAMS = 64
"""Of which tracks are kept, some 2 MB each; the others are counted."""

WAIT_S = 0.2
"""For a message: so soon the thread ends when it is asked to."""

STORE_EVERY_S = 1.0


class Watcher:
    """A context manager: the thread runs inside it.

    subscriber: belongs to the thread from then on. store: gives the history, and what is not
    published. streams: those alone that are wanted; all where there are none.

    Attributes: `lock` is to be held while a track is read; `tracks` by stream; `left_out` are
    streams above the limit, `restarts` counts streams that were begun anew, and `trouble` says
    what is wrong with the store.
    """

    def __init__(
        self,
        subscriber: PredictionSubscriber,
        endpoint: str,
        store: Path | None = None,
        streams: Sequence[str] = (),
    ) -> None:
        self.lock = threading.Lock()
        self.tracks: dict[str, Track] = {}
        self.left_out: set[str] = set()
        self.restarts = 0
        self.trouble = ""
        self._subscriber, self._store = subscriber, store
        self._streams = tuple(streams)
        self._liveness = Liveness(endpoint, time.time_ns())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def status(self, stream: str) -> Status:
        """Return how it stands with a stream now."""
        status = self._liveness.status(stream, time.time_ns())
        more = [f"{len(self.left_out):,} more streams are not kept."] if self.left_out else []
        security = self._subscriber.security
        if not_let_in := status.unheard and security.counts().get("not_admitted"):
            more.append(f"It has not let us in, {count(not_let_in, 'times')}: {security.advice}.")
        more += [f"The store cannot be read: {self.trouble}"] if self.trouble else []
        return status._replace(
            text=" ".join([status.text, *more]), bad=status.bad or bool(self.trouble)
        )

    # ---- in the thread ------------------------------------------------------------------

    def _run(self) -> None:
        with self._subscriber:
            history = self._open()
            looked_s = time.monotonic()
            heard = 0
            while not self._stop.is_set():
                events = self._subscriber.receive(WAIT_S)
                now_ns = time.time_ns()
                with self.lock:
                    if self._subscriber.heard > heard:
                        heard = self._subscriber.heard
                        self._liveness.hear(now_ns, stale=self._subscriber.stale)
                    self._take(events, now_ns)
                    for stream, track in self.tracks.items():
                        if self._liveness.status(stream, now_ns).silent:
                            track.fall_silent()
                if history is not None and time.monotonic() - looked_s > STORE_EVERY_S:
                    self._follow(history)
                    looked_s = time.monotonic()
            if history is not None:
                history.close()

    def _open(self) -> History | None:
        """Read what the store holds; what comes meanwhile waits at the socket."""
        if self._store is None:
            return None
        try:
            history = History(self._store)
            for stream in history.streams():
                track = self._track(stream)
                if track is not None:
                    with self.lock:
                        history.read(track)
        except StreamLSTMError as error:
            self.trouble = str(error)
            return None
        return history

    def _follow(self, history: History) -> None:
        try:
            for track in list(self.tracks.values()):
                with self.lock:
                    history.follow(track)
            self.trouble = ""
        except StreamLSTMError as error:
            self.trouble = str(error)

    def _track(self, stream: str) -> Track | None:
        """Return the track of a stream, None where it is not kept."""
        if self._streams and stream not in self._streams:
            return None
        if stream not in self.tracks and len(self.tracks) == MAX_STREAMS:
            self.left_out.add(stream)
            return None
        return self.tracks.setdefault(stream, Track(stream))

    def _take(self, events: list[Output], now_ns: int) -> None:
        streams: dict[str, list[Prediction | Score]] = {}
        for event in events:
            if not isinstance(event, End):
                streams.setdefault(event.stream, []).append(event)
        for stream, came in streams.items():
            if self._track(stream) is not None:
                for run in _runs(came):
                    self._take_run(stream, run, now_ns)
        for event in events:
            if isinstance(event, End):
                self._liveness.end(event.stream, now_ns)

    def _take_run(self, stream: str, came: list[Prediction | Score], now_ns: int) -> None:
        """Take records of one stream, whose predictions follow on each other."""
        made = [event for event in came if isinstance(event, Prediction)]
        track = self.tracks[stream]
        if any(track.is_of_another_life(one.n, one.t_ns, one.p) for one in made):
            self.restarts += 1
            track = self.tracks[stream] = Track(stream)
        if made:
            columns = Batch.of(Prediction, made)
            track.predict(columns)
            t_ns = columns["t_ns"]
            timed = t_ns[t_ns > 0]
            track.arrive((now_ns - timed).astype(np.float64) / 1e9)
            self._liveness.predict(stream, now_ns)
        scored = [event for event in came if isinstance(event, Score)]
        track.score(Batch.of(Score, scored))

    # ---- its life -----------------------------------------------------------------------

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()


def _runs(came: list[Prediction | Score]) -> Iterator[list[Prediction | Score]]:
    """Cut records where a prediction goes back: a repetition, or a new beginning."""
    run: list[Prediction | Score] = []
    last = 0
    for event in came:
        if isinstance(event, Prediction):
            if event.n <= last:
                yield run
                run = []
            last = event.n
        run.append(event)
    yield run
