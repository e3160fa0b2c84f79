"""Heartbeats of the published predictions: the daemon is alive, and where each stream stands.

It says too whether the feed has fallen silent, and with it the daemon. A heartbeat's `seq` is the
number of the stream's next element, and its session that of the predictions. Many streams take
turns, so that a beat never holds up a tick for long. The daemon's loop sends them, where a
`Publisher` of ticks has a thread for that: they have to show that this loop runs.
"""

from __future__ import annotations

from collections.abc import Callable

from ..core.session import Session
from ..core.table import N
from ..feed.predictions import PredictionPublisher

PERIOD_S = 1.0

STREAMS_A_BEAT = 100
"""Half a millisecond of sending."""


class Heartbeats:
    """Sends the heartbeats and the ends of a session's streams.

    stale: whether the feed is silent.
    """

    def __init__(
        self, publisher: PredictionPublisher, session: Session, stale: Callable[[], bool]
    ) -> None:
        self._publisher = publisher
        self._session = session
        self._stale = stale
        self._turn: list[str] = []

    def beat(self) -> None:
        """Send the heartbeats of the streams whose turn it is, ticks that waited included."""
        self._session.catch_up()
        if not self._turn:
            self._turn = self._session.table.names[::-1]
        stale = self._stale()
        for name in self._turn[: -STREAMS_A_BEAT - 1 : -1]:
            n, session = self._reached(name)
            self._publisher.heartbeat(name, n + 1, session=session, stale=stale)
        del self._turn[-STREAMS_A_BEAT:]

    def end(self) -> None:
        """Say of every stream that nothing more will come."""
        self._session.catch_up()
        for name in self._session.table.names:
            n, session = self._reached(name)
            self._publisher.end(name, n + 1, session=session)

    def _reached(self, name: str) -> tuple[int, str]:
        """Return the elements of a stream and its publisher's run."""
        table = self._session.table
        row = table.places[name]
        return int(table.view[row, N]), table.sources[row]
