"""Which endpoints libzmq has given up, and when each is dialled again.

libzmq dials an endpoint again whose connection ended, but for one that broke the protocol: another
mechanism or kind of socket, a malformed command, a frame above the limit, or keys that do not fit.
That one it drops for good, with nothing but the report DISCONNECTED. Where no report of a further
attempt follows within GRACE_S, the endpoint was given up, and its owner has to dial it again.

Reports name an endpoint as it was configured at the first attempt, and with the resolved address
at later ones. An address that was not configured is matched by its port; where several endpoints
have that port, all that may be meant are dialled again, since one too many only costs a moment.

Disconnecting an endpoint that was given up may end another connection of the socket, whose memory
is where that of the first was: libzmq keeps the address. So an endpoint is disconnected as soon as
it is given up, before any other is dialled, and one that neither has a connection nor is dialled
for SILENT_S counts as given up too.

No socket is known here. `report` may be called by any thread, all else by the owner alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

GRACE_S = 0.5
"""For libzmq to report its next attempt, which it does within milliseconds."""

FIRST_S = 0.5
"""Before an endpoint is dialled again; each time it is given up soon after, that doubles."""

MOST_S = 10.0
"""Between two attempts at most: what a hostile peer can make us take in a second is bounded, and
one that is right again has not long to wait."""

PIECE_S = 1.0
"""How long an owner may wait before it looks here again."""

SILENT_S = 30.0
"""Without a report of an attempt, of which libzmq makes one in six seconds at the least."""

MAX_REPORTS = 10_000
"""Reports that wait for an owner that does not look; all endpoints are dialled where more came."""

REPORTING = ("tcp://", "ipc://")
"""The transports on whose connections libzmq reports."""

NEVER = float("inf")

Report: TypeAlias = Literal["connected", "refused", "ended", "tried"]


class _Line:
    """An endpoint: whether it is connected, or when it ended, was tried last, and is due.

    `lost` says that a connection has ended and no other has been made since.
    """

    __slots__ = ("connected", "due", "ended", "lost", "period", "since", "tried")

    def __init__(self) -> None:
        self.connected = self.lost = False
        self.tried: float | None = None
        self.ended: float | None = None
        self.due: float | None = None
        self.period = FIRST_S
        self.since = -NEVER


class Redial:
    """The endpoints of one socket; see the module.

    note: is given an endpoint that was given up, and why.
    """

    def __init__(self, endpoints: Iterable[str], note: Callable[[str, str], object]) -> None:
        self._lines = {
            endpoint: _Line() for endpoint in endpoints if endpoint.startswith(REPORTING)
        }
        self._note = note
        self._heard: deque[tuple[Report, str, str]] = deque(maxlen=MAX_REPORTS)
        self._why: dict[str, str] = {}
        self._waiting = True

    @property
    def restless(self) -> bool:
        """Whether `due` has something to look at."""
        return self._waiting or bool(self._heard)

    def report(self, report: Report, address: str, why: str = "") -> None:
        """Take a report of libzmq's about an endpoint; `why` says how it was refused."""
        self._heard.append((report, address, why))

    def due(self, now: float) -> tuple[list[str], list[str]]:
        """Return the endpoints to be disconnected now, and then those to be dialled.

        now: seconds, monotonic.
        """
        if len(self._heard) == MAX_REPORTS:
            self._heard.clear()
            for line in self._lines.values():
                line.ended, line.connected, line.lost = now, False, True
        while self._heard:
            report, address, why = self._heard.popleft()
            for endpoint in self._meant(address, certain=report in ("connected", "tried")):
                self._apply(endpoint, report, why, now)
        stale, out = [], []
        for endpoint, line in self._lines.items():
            if line.tried is None:
                line.tried = now
            if self._is_given_up(line, now):
                stale.append(endpoint)
                self._give_up(endpoint, line, now)
            if line.due is not None and now >= line.due:
                line.due, line.since, line.tried = None, now, now
                out.append(endpoint)
        self._waiting = not all(line.connected for line in self._lines.values())
        return stale, out

    def lost(self, endpoint: str) -> bool:
        """Return whether an endpoint was connected and is not any more, as of the last `due`.

        One whose first connection is still to be reported is not lost, and neither is one of a
        transport whose connections libzmq does not report.
        """
        line = self._lines.get(endpoint)
        return line is not None and line.lost

    def failed(self, endpoint: str, why: str, now: float) -> None:
        """Take note that an endpoint could not even be dialled."""
        self._why[endpoint] = why
        self._give_up(endpoint, self._lines[endpoint], now)
        self._waiting = True

    def _is_given_up(self, line: _Line, now: float) -> bool:
        if line.connected or line.due is not None:
            return False
        if line.ended is not None:
            return now >= line.ended + GRACE_S
        return line.tried is not None and now >= line.tried + SILENT_S

    def _meant(self, address: str, *, certain: bool) -> list[str]:
        if address in self._lines:
            return [address]
        port = address.rpartition(":")[2]
        found = [endpoint for endpoint in self._lines if endpoint.rpartition(":")[2] == port]
        return found if len(found) == 1 or not certain else []

    def _apply(self, endpoint: str, report: Report, why: str, now: float) -> None:
        line = self._lines[endpoint]
        if report == "refused":
            self._why[endpoint] = why
        elif report == "ended":
            line.ended, line.connected, line.lost = now, False, True
        else:
            line.ended, line.tried = None, now
            line.connected = report == "connected"
            if line.connected:
                line.lost = False
                self._why.pop(endpoint, None)

    def _give_up(self, endpoint: str, line: _Line, now: float) -> None:
        line.period = min(2 * line.period, MOST_S) if now < line.since + 2 * MOST_S else FIRST_S
        line.ended, line.due = None, now + line.period
        why = self._why.pop(endpoint, "it broke the protocol, or sent a frame above the limit")
        self._note(endpoint, f"{why}; dialled again in {line.period:g} s")
