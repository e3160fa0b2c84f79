"""Whether what a live page shows is of now, in words: it never stands still without saying so."""

from __future__ import annotations

from typing import NamedTuple

from ..core.verdict import count
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
