"""Receives a daemon's published records in a thread, and fills a track for each stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..errors import StreamLSTMError
from ..events import End, Prediction, Score
from ..feed.predictions import Output, PredictionSubscriber
from ..quoting import count
from ..records import Batch
from ..serve.status import Status
from .history import History
from .status import Liveness
from .track import Track

MAX_STREAMS = 64
"""Streams with a track, some 2 MB each; others are counted."""

WAIT_S = 0.2
"""For a message: the longest time that the thread takes to stop."""

STORE_EVERY_S = 1.0


class Watcher:
    """A context manager whose thread runs inside it.

    subscriber: used by the thread only. store: has the history, and what is not published.
    streams: those to show; all if empty.

    Attributes: hold `lock` while you read a track; `tracks` by stream; `left_out` are streams
    above the limit, `restarts` counts restarted streams, and `trouble` is the error of the store.
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
        """Return the present status of a stream."""
        now_ns = time.time_ns()
        status = self._liveness.status(stream, now_ns)
        more = [f"{len(self.left_out):,} more streams are not shown."] if self.left_out else []
        security = self._subscriber.security
        if refused := self._liveness.lost(now_ns) and security.counts().get("not_admitted"):
            more.append(f"It refused the connection {count(refused, 'times')}: {security.advice}.")
        more += [f"The store cannot be read: {self.trouble}"] if self.trouble else []
        return status._replace(reason=" ".join([status.reason, *more]))

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
                        self._liveness.report(self._subscriber.statuses)
                    self._take(events, now_ns)
                    for stream, track in self.tracks.items():
                        if self._liveness.status(stream, now_ns).name in ("late", "lost"):
                            track.fall_silent()
                if history is not None and time.monotonic() - looked_s > STORE_EVERY_S:
                    self._follow(history)
                    looked_s = time.monotonic()
            if history is not None:
                history.close()

    def _open(self) -> History | None:
        """Read the store; records that arrive meanwhile wait at the socket."""
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
        """Return the track of a stream, None if it is not shown."""
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
        for stream, records in streams.items():
            if self._track(stream) is not None:
                for run in _runs(records):
                    self._take_run(stream, run, now_ns)
        for event in events:
            if isinstance(event, End):
                self._liveness.end(event.stream, now_ns)

    def _take_run(self, stream: str, records: list[Prediction | Score], now_ns: int) -> None:
        """Take records of one stream with predictions in order."""
        predictions = [record for record in records if isinstance(record, Prediction)]
        track = self.tracks[stream]
        if any(track.shows_restart(one.n, one.t_ns, one.p) for one in predictions):
            self.restarts += 1
            track = self.tracks[stream] = Track(stream)
        if predictions:
            columns = Batch.of(Prediction, predictions)
            track.predict(columns)
            t_ns = columns["t_ns"]
            timed = t_ns[t_ns > 0]
            track.arrive((now_ns - timed).astype(np.float64) / 1e9)
            self._liveness.predict(stream, now_ns)
        track.score(Batch.of(Score, [one for one in records if isinstance(one, Score)]))

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _runs(records: list[Prediction | Score]) -> Iterator[list[Prediction | Score]]:
    """Cut records where n goes back: at a repetition, or a restart."""
    run: list[Prediction | Score] = []
    last = 0
    for event in records:
        if isinstance(event, Prediction):
            if event.n <= last:
                yield run
                run = []
            last = event.n
        run.append(event)
    yield run
