"""What a page knows of a daemon and of each stream: live, late, ended, or the daemon is lost.

The page's server sends the status of the shown stream as a pulse each second. The script
`status.js` shows it, and decides in the browser that the daemon is lost when no pulse comes. It
sets the text of the element `status`, the title, and `data-status` of the root element, by which
style sheets choose the colour.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..quoting import json_line
from ..serve.status import Arrivals, Status, timed, words
from .words import moment

HEARD_S = 5.0
"""A daemon sends a heartbeat every second; one that is not heard for this long is lost."""

S = 1e9


class Liveness:
    """When a daemon was last heard; times are nanoseconds since 1970, passed in.

    endpoint: where it publishes.
    """

    def __init__(self, endpoint: str, now_ns: int) -> None:
        self._endpoint = endpoint
        self._began_ns = now_ns
        self._heard_ns = 0
        self._stale_since_ns = 0
        self._rows: dict[str, int] = {}
        self._arrivals = Arrivals()
        self._said: Mapping[str, str] = {}
        self._ended_ns: dict[str, int] = {}

    def hear(self, now_ns: int, *, stale: bool) -> None:
        """Note a message; stale: whether the daemon's own feed is silent."""
        self._heard_ns = now_ns
        self._stale_since_ns = (self._stale_since_ns or now_ns) if stale else 0

    def predict(self, stream: str, now_ns: int) -> None:
        """Note a prediction of a stream."""
        row = self._rows.setdefault(stream, len(self._rows))
        self._arrivals.grow(len(self._rows))
        self._arrivals.arrive(np.array([row]), now_ns / S)
        self._ended_ns.pop(stream, None)

    def end(self, stream: str, now_ns: int) -> None:
        """Note that a stream has ended."""
        self._ended_ns.setdefault(stream, now_ns)

    def report(self, statuses: Mapping[str, str]) -> None:
        """Note the statuses of streams that the daemon sends with its heartbeats."""
        self._said = statuses

    def lost(self, now_ns: int) -> bool:
        """Return whether the daemon is not heard."""
        return now_ns - (self._heard_ns or self._began_ns) > HEARD_S * S

    def status(self, stream: str, now_ns: int) -> Status:
        """Return the status of a stream."""
        status, last = self._predicted(stream, now_ns)
        if not self._heard_ns:
            waited = words((now_ns - self._began_ns) / S)
            text = f"Nothing has come from {self._endpoint} for {waited}: does a daemon run there?"
            return Status("lost" if self.lost(now_ns) else "waiting", text)
        if (ended_ns := self._ended_ns.get(stream)) is not None:
            text = f"The stream ended at {moment(ended_ns)}"
            return status._replace(name="ended", reason=_joined(text, last))
        if self.lost(now_ns):
            quiet = words((now_ns - self._heard_ns) / S)
            text = f"No data since {moment(self._heard_ns)}, for {quiet}: the daemon "
            text += f"at {self._endpoint} is not heard"
            return status._replace(name="lost", reason=_joined(text, last))
        if self._said.get(stream) == "ended":
            return status._replace(name="ended", reason=_joined("The feed has ended", last))
        if self._stale_since_ns:
            text = "The daemon runs and its feed is silent: no data since "
            text += f"{moment(self._stale_since_ns)} or before"
            return status._replace(name="late", reason=_joined(text, last))
        if self._said.get(stream) == "late":
            text = "The daemon runs and this stream's feed is late"
            return status._replace(name="late", reason=_joined(text, last))
        return status

    def _predicted(self, stream: str, now_ns: int) -> tuple[Status, str]:
        """Return the status by the predictions alone, and when the last one came."""
        row = self._rows.get(stream)
        if row is None:
            return Status("waiting", "The daemon runs; no prediction has come yet."), ""
        last_s = float(self._arrivals.last_s[row])
        age_s = now_ns / S - last_s
        status = timed(float(self._arrivals.interval_s[row]), age_s, "prediction")
        status = status._replace(reason=f"{status.name.capitalize()}; {status.reason}.")
        return status, f"the last prediction came at {moment(round(last_s * S))}"


def script() -> str:
    """Return the script of the live page."""
    return (Path(__file__).parent / "status.js").read_text(encoding="utf-8")


def pulse(status: Status, stream: str, now_ns: int) -> str:
    """Return what the script expects in the first tag of a model named `pulse`."""
    shown = {"name": status.name, "stream": stream, "reason": status.reason}
    return json_line(shown | {"sent_ns": str(now_ns)})


def _joined(text: str, last: str) -> str:
    return f"{text}; {last}." if last else f"{text}."
