"""A daemon as a service: what systemd is told, what a SIGHUP reads anew, who was refused.

At a SIGHUP the same flags, environment and file are resolved once more, and the list of client
keys is read. If anything is wrong, or a setting changed that only a restart can change, nothing
changes at all. What can change is what no prediction depends on: a network, a scaler or a
learning rate that changed in mid-stream would leave a past that no replay can reproduce.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING

from ..config import flatten
from ..errors import ConfigurationError, StreamLSTMError
from ..serve.logs import Log
from ..serve.signals import StopSwitch, Supervisor, note_hangups
from .peers import PERIOD_S, PeerLog
from .settings import Settings

if TYPE_CHECKING:
    from ..feed.security import Security
    from ..serve.daemon import Daemon

SWAPPED = ("idle_timeout", "max_streams", "max_subscriptions")
"""Keys that may change while the daemon runs."""


HINT_S = 10
"""Without any message after the start, before it is said."""


class Service:
    """A context manager around the life of a daemon, within `stop_on_signals`.

    settings: those that the daemon was made of. log: what says what happens.
    """

    def __init__(
        self,
        settings: Settings,
        security: Security,
        stop: StopSwitch,
        log: Log,
    ) -> None:
        self._settings = settings
        self._security = security
        self._stop = stop
        self._log = log
        self._unheard = 0
        self._others: tuple[str, ...] = ()
        self._peers = PeerLog(security, log.named("peers_refused", "warning"))
        self._supervisor = Supervisor()
        self._hung_up = False
        self._status = ""
        self._clipped: Callable[[], list[str]] = list
        self._stack = ExitStack()

    def attend(self, daemon: Daemon, status: str) -> None:
        """Say that the daemon is ready, and do what is to be done in its loop."""
        self._status = status
        from ..core.features import Clipped

        clipped, table = Clipped(daemon.config), daemon.session.table
        self._clipped = lambda: clipped.look(table)
        daemon.every(PERIOD_S, lambda: self._tend(daemon))
        if self._supervisor.watchdog_s is not None:
            daemon.every(self._supervisor.watchdog_s, self._supervisor.alive)
        self._supervisor.ready(status)

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._tell_clipped()
        self._peers.flush()
        self._supervisor.stopping()

    def _tend(self, daemon: Daemon) -> None:
        self._peers.tend()
        self._hint(daemon)
        self._tell_names(daemon)
        self._tell_clipped()
        if self._hung_up:
            self._hung_up = False
            self._supervisor.reloading()
            try:
                self._log.say("reloaded", self._reload(daemon))
            except StreamLSTMError as error:
                told = error.within("not reloaded, nothing has changed: ")
                self._log.say("not_reloaded", *told, level="error")
            self._supervisor.ready(self._status)

    def _hint(self, daemon: Daemon) -> None:
        """Say once what may be wrong where nothing has come in the first seconds."""
        feed = daemon.config.feed
        self._unheard = HINT_S + 1 if daemon.subscriber.counters.messages else self._unheard + 1
        if self._unheard == HINT_S:
            streams = ", ".join(feed.streams)
            sends = f", and does it send {streams}" if streams else ""
            self._log.say(
                "nothing_heard",
                f"nothing has come from {', '.join(feed.connect)} for {HINT_S} s: is a publisher "
                f"there{sends}? going on to wait",
                level="warning",
            )

    def _tell_names(self, daemon: Daemon) -> None:
        """Say where values are taken by their place, since the feed calls them otherwise."""
        names = daemon.subscriber.intake.names
        others, ours = names.others, ", ".join(names.ours)
        if others != self._others:
            self._others = others
            self._log.say(
                "columns_by_place",
                f"the feed calls its values {', '.join(others)}; they are taken by their place, "
                f"as {ours}",
                level="warning",
            )

    def _tell_clipped(self) -> None:
        """Name the features of which the scaler leaves nothing."""
        for line in self._clipped():
            self._log.say("feature_clipped", line, level="warning")

    def _reload(self, daemon: Daemon) -> str:
        """Swap what can be swapped, and return what was; an error has changed nothing."""
        settings = self._settings.again()
        old, new = flatten(self._settings.config), flatten(settings.config)
        changed = [key for key in new if new[key] != old[key]]
        for key in changed:
            if key not in SWAPPED:
                raise ConfigurationError(
                    f"{key} is {old[key]!r} and would be {new[key]!r}, which needs a restart",
                    key=key,
                )
        self._security.reload(settings.config.security)
        daemon.reconfigure(settings.config.feed)
        self._settings = settings
        told = [f"{key} is {new[key]!r} and was {old[key]!r}" for key in changed]
        if self._security.curve:
            told.append(f"keys of clients: {len(self._security.clients)}")
        return f"reloaded: {', '.join(told) or 'nothing has changed'}"

    def _note(self) -> None:
        self._hung_up = True

    def __enter__(self) -> Service:
        self._stack.enter_context(self._supervisor)
        self._stack.enter_context(note_hangups(self._stop, self._note))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
