"""Whether the feed has fallen silent: what the daemon then says is of a world that has moved on.

A feed that has sent a heartbeat will send others, so three that are missing are a silence. One
that sends none may have nothing to say for hours: it is silent only after a time that was
configured. When every stream has said its end, silence is what is to be expected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..events import Fresh, Notice, Stale
from ..tables import FeedConfig

if TYPE_CHECKING:
    from ..feed.subscriber import Subscriber

MISSED = 3
"""Heartbeats: one may be lost or late, and so may two where the publisher is busy."""

LOOK_S = 1.0
"""Between two looks, at most."""


class Staleness:
    """Looks whether the feed is silent; `stale` is what the last look saw.

    tell: takes a `Stale` or a `Fresh` where that changes. ended: whether no more is to come.
    """

    def __init__(
        self,
        subscriber: Subscriber,
        config: FeedConfig,
        tell: Callable[[Notice], object],
        ended: Callable[[], bool],
    ) -> None:
        self.stale = False
        self.period_s = min(LOOK_S, config.stale_after or config.heartbeat_s)
        self._subscriber, self._config = subscriber, config
        self._tell, self._ended = tell, ended
        self._silent_s = 0.0

    def look(self) -> None:
        """Compare the time without a message with what it may be."""
        silent_s, longest_s = self._subscriber.idle_s, self._longest_s()
        silent = silent_s >= longest_s and not self._subscriber.waiting
        if silent and not self.stale and not self._ended():
            self.stale = True
            self._subscriber.counters.stale += 1
            self._tell(Stale(silent_s))
        elif not silent and self.stale:
            self.stale = False
            self._tell(Fresh(self._silent_s))
        self._silent_s = silent_s

    def _longest_s(self) -> float:
        if self._config.stale_after:
            return self._config.stale_after
        heard = self._subscriber.counters.heartbeats > 0
        return MISSED * self._config.heartbeat_s if heard else float("inf")


class SilenceLog:
    """Writes of a feed that has fallen silent, and that it is back.

    write: takes a line without its end.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def __call__(self, event: object) -> None:
        """Take an event; all but these two are passed over."""
        if isinstance(event, Stale):
            self._write(
                f"stale: nothing has come from the feed for {event.silent_s:.1f} s; waiting for it"
            )
        elif isinstance(event, Fresh):
            self._write(f"fresh: the feed is back after {event.silent_s:.1f} s of silence")
