"""Whether the daemon lives, and whether it is of use: what an orchestrator asks for.

It lives as long as its loop turns, and that is all: a daemon whose feed is gone is not helped by
being started again. It is ready while it predicts from a feed that is there and keeps what it
should keep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .daemon import Daemon

TURN_S = 0.5
"""Between two marks that the loop makes."""

NAMED = 5
"""Streams that a reason names."""


class Verdict(NamedTuple):
    """Whether all is well, and what is told of it."""

    well: bool
    told: dict[str, Any]


class Health:
    """What is known of a daemon, which there need not be yet.

    live_after: seconds without a turn of the loop after which it hangs. clock: seconds, monotonic.
    """

    def __init__(self, live_after: float, clock: Callable[[], float]) -> None:
        self._live_after, self._clock = live_after, clock
        self._turned: float | None = None
        self._daemon: Daemon | None = None

    def attend(self, daemon: Daemon) -> None:
        """Have the loop of a daemon mark its turns."""
        self._daemon = daemon
        daemon.every(TURN_S, self._mark)

    def _mark(self) -> None:
        self._turned = self._clock()

    def leave(self) -> None:
        """Take notice that the loop is over, so that no more turns are to be expected."""
        self._turned = None

    @property
    def loop_age_s(self) -> float:
        """Seconds since the loop was last seen to turn; 0 before it begins and after its end."""
        turned = self._turned
        return 0.0 if turned is None else max(self._clock() - turned, 0.0)

    def live(self) -> Verdict:
        """Return whether the loop turns."""
        age_s = self.loop_age_s
        well = age_s <= self._live_after
        reasons = [] if well else [f"the loop has not turned for {age_s:.1f} s"]
        return Verdict(well, {"live": well, "reasons": reasons, "loop_age_s": round(age_s, 3)})

    def ready(self) -> Verdict:
        """Return whether predictions are made from a fresh feed, and kept where they should be."""
        daemon = self._daemon
        if daemon is None:
            return _verdict({"started": "it is still starting"})
        stopping = "it is stopping" if daemon.stop.requested else ""
        checks = {
            "started": stopping,
            "loop": "; ".join(self.live().told["reasons"]),
            "warm": _cold(daemon),
            "feed": _silent(daemon),
        }
        if daemon.store is not None:
            trouble = daemon.store.trouble
            checks["store"] = f"the store cannot be written: {trouble}" if trouble else ""
        return _verdict(checks)


def _verdict(checks: dict[str, str]) -> Verdict:
    """Make a verdict of {check: what is wrong, "" if nothing is}."""
    reasons = [reason for reason in checks.values() if reason]
    told = {
        "ready": not reasons,
        "reasons": reasons,
        "checks": {k: not v for k, v in checks.items()},
    }
    return Verdict(not reasons, told)


def _cold(daemon: Daemon) -> str:
    from .totals import warm_streams

    wanted = daemon.config.feed.streams
    warm, cold = warm_streams(daemon.session, wanted)
    if cold:
        more = f" and {len(cold) - NAMED} more" if len(cold) > NAMED else ""
        return f"not warm yet: {', '.join(cold[:NAMED])}{more}"
    return "" if warm else "no stream is warm yet"


def _silent(daemon: Daemon) -> str:
    if daemon.staleness.stale:
        return f"the feed has been silent for {daemon.subscriber.idle_s:.1f} s"
    return "" if daemon.subscriber.counters.messages else "nothing has come from the feed yet"
