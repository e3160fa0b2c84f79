"""Listens to a daemon's published records in a thread, and keeps a track of each stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from ..core.verdict import count
from ..errors import StreamLSTMError
from ..events import End, Prediction, Score
from ..feed.predictions import Output, PredictionSubscriber
from ..records import Batch
from .history import History
from .liveness import Liveness, Status
from .track import Track

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
