"""A daemon as a service: notifications to systemd, reloading on SIGHUP, its log and pages.

On SIGHUP the same flags, environment and file are resolved again, and the list of client keys is
read. If anything is wrong, or a setting changed that needs a restart, nothing changes at all. Only
settings that no prediction depends on can change: a network, scaler or learning rate that changed
in mid-stream would leave a past that no replay can reproduce.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import Config, flatten
from ..errors import ConfigurationError, StreamLSTMError
from ..platform import HANGUP
from .logs import Backoff, Log, Pipe
from .signals import StopSwitch, Supervisor, note_hangups

if TYPE_CHECKING:
    from ..feed.security import Security
    from .daemon import Daemon
    from .monitor import Monitor

PERIOD_S = 1.0
"""Seconds between two calls of `PeerLog.tend`."""

NOT_ADMITTED = "not_admitted"
GIVEN_UP = "given_up"


def refused_peers(counts: Mapping[str, int]) -> str:
    """Return the refusals by reason as one phrase, "" without any."""
    return ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in counts.items())


class PeerLog:
    """Logs the peers that were refused, and those that refused us, at a limited rate.

    write: takes a line. clock: seconds, monotonic. `tend` is called once a second.
    """

    def __init__(
        self,
        security: Security,
        write: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._security = security
        self._write = write
        self._backoff = Backoff(clock)
        self._logged: dict[str, int] = {}

    def tend(self) -> None:
        """Log new refusals whose reason is due."""
        self._log(self._backoff.due)

    def flush(self) -> None:
        """Log all new refusals."""
        self._log(lambda _: True)

    def _log(self, due: Callable[[str], bool]) -> None:
        new = {
            reason: count - self._logged.get(reason, 0)
            for reason, count in self._security.counts().items()
            if count > self._logged.get(reason, 0) and due(reason)
        }
        for reason, count in new.items():
            self._backoff.written(reason)
            self._logged[reason] = self._logged.get(reason, 0) + count
        ours = NOT_ADMITTED, GIVEN_UP
        refused = {reason: count for reason, count in new.items() if reason not in ours}
        if refused:
            self._write(f"peers refused: {refused_peers(refused)}")
        if NOT_ADMITTED in new:
            number = new[NOT_ADMITTED]
            times = f"{number:,} time{'s' * (number != 1)}"
            self._write(
                f"rejected by the peer that we connect to, {times}: {self._security.advice}"
            )
        if GIVEN_UP in new:
            for endpoint, why in self._security.take_given_up().items():
                self._write(f"gave up the connection to {endpoint}: {why}")


class WatchedFiles:
    """Tells when any of some files and folders has changed."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._seen = self._look()

    def _look(self) -> list[tuple[int, int]] | None:
        try:
            found = [path.stat() for path in self._paths]
        except OSError:  # it is being replaced
            return None
        return [(about.st_mtime_ns, about.st_size) for about in found]

    def changed(self) -> bool:
        """Return whether one has changed since the last call."""
        found = self._look()
        if found is None or found == self._seen:
            return False
        self._seen = found
        return True


RELOADABLE = ("idle_timeout", "max_streams", "max_subscriptions")
"""Keys that may change while the daemon runs."""

HINT_S = 10
"""Seconds of silence after the start before a warning."""


class Service:
    """A context manager around the life of a daemon, within `stop_on_signals`.

    config: the daemon's. resolve: returns the configuration that the same flags, environment and
    file give now. log: takes every message. file: the configuration; where there is no SIGHUP, a
    change of it, or of the list of clients, requests a reload.
    """

    def __init__(
        self,
        config: Config,
        resolve: Callable[[], Config],
        security: Security,
        stop: StopSwitch,
        log: Log,
        file: Path | None = None,
    ) -> None:
        self._config, self._resolve = config, resolve
        self._security = security
        self._stop = stop
        self._log = log
        self._silent_s = 0
        self._others: tuple[str, ...] = ()
        self._peers = PeerLog(security, log.named("peers_refused", "warning"))
        self._supervisor = Supervisor()
        self._hung_up = False
        clients = security.clients_folder
        watched = [path for path in (file, clients) if path is not None]
        self._watched = WatchedFiles(watched if HANGUP is None else ())
        self._status = ""
        self._clipped: Callable[[], list[str]] = list
        self._stack = ExitStack()

    def attach(self, daemon: Daemon, status: str) -> None:
        """Report that the daemon is ready, and check it once a second in its loop."""
        self._status = status
        from ..core.features import FeatureMonitor

        monitor = FeatureMonitor(daemon.config)
        self._clipped = lambda: monitor.check(daemon.session)
        daemon.every(PERIOD_S, lambda: self._tend(daemon))
        if self._supervisor.watchdog_s is not None:
            daemon.every(self._supervisor.watchdog_s, self._supervisor.alive)
        self._supervisor.ready(status)

    def stopping(self) -> None:
        """Report that the daemon stops."""
        self._log_clipped()
        self._peers.flush()
        self._supervisor.stopping()

    def _tend(self, daemon: Daemon) -> None:
        self._peers.tend()
        self._log_silence(daemon)
        self._log_names(daemon)
        self._log_clipped()
        if self._hung_up or self._watched.changed():
            self._hung_up = False
            self._supervisor.reloading()
            try:
                self._log.say("reloaded", self._reload(daemon))
            except StreamLSTMError as error:
                lines = error.within("not reloaded, nothing has changed: ")
                self._log.say("not_reloaded", *lines, level="error")
            self._supervisor.ready(self._status)

    def _log_silence(self, daemon: Daemon) -> None:
        """Log once what may be wrong if no message comes in the first seconds."""
        feed = daemon.config.feed
        received = daemon.subscriber.counters.messages
        self._silent_s = HINT_S + 1 if received else self._silent_s + 1
        if self._silent_s == HINT_S:
            streams = ", ".join(feed.streams)
            sends = f", and does it send {streams}" if streams else ""
            endpoints = ", ".join(daemon.subscriber.endpoints)
            self._log.say(
                "nothing_heard",
                f"no message from {endpoints} for {HINT_S} s: is a publisher running{sends}? "
                "still waiting",
                level="warning",
            )

    def _log_names(self, daemon: Daemon) -> None:
        """Log that values are taken by position because the feed names them differently."""
        names = daemon.subscriber.intake.columns
        others, ours = names.others, ", ".join(names.ours)
        if others != self._others:
            self._others = others
            self._log.say(
                "columns_by_place",
                f"the feed names its values {', '.join(others)}; they are taken by position, "
                f"as {ours}",
                level="warning",
            )

    def _log_clipped(self) -> None:
        """Log the features of which the scaler leaves nothing."""
        for line in self._clipped():
            self._log.say("feature_clipped", line, level="warning")

    def _reload(self, daemon: Daemon) -> str:
        """Change what can be changed, and describe it; an error has changed nothing."""
        config = self._resolve()
        old, new = flatten(self._config), flatten(config)
        changed = [key for key in new if new[key] != old[key]]
        for key in changed:
            if key not in RELOADABLE:
                raise ConfigurationError(
                    f"{key} is {old[key]!r} and would be {new[key]!r}, which needs a restart",
                    key=key,
                )
        self._security.reload(config.security)
        daemon.reconfigure(config.feed)
        self._config = config
        changes = [f"{key} is {new[key]!r} and was {old[key]!r}" for key in changed]
        if self._security.curve:
            changes.append(f"keys of clients: {len(self._security.clients)}")
        return f"reloaded: {', '.join(changes) or 'nothing has changed'}"

    def _note(self) -> None:
        self._hung_up = True

    def __enter__(self) -> Service:
        self._stack.enter_context(self._supervisor)
        self._stack.enter_context(note_hangups(self._stop, self._note))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def open_monitor(config: Config, log: Log, pipe: Pipe) -> Monitor | None:
    """Return the pages of a daemon, served from now on; None if no address is configured.

    Raises what `serve.web.bind` raises.
    """
    if config.serve.metrics is None:
        return None
    from .monitor import Monitor  # it imports the Prometheus client

    return Monitor(
        config.serve,
        insecure=config.security.insecure,
        dropped=lambda: pipe.dropped,
        say=log.named("page_failed", "error"),
    )


def log_stop(log: Log, daemon: Daemon, wall_s: float) -> None:
    """Write the last line of a log in JSON, with the totals of the run."""
    from .metrics import totals

    if log.form == "json":
        total = totals(daemon.session)
        log.say(
            "stopped",
            "the daemon has stopped",
            streams=total.streams,
            elements=total.elements,
            seconds=round(wall_s, 3),
            interrupted=daemon.stop.requested,
        )
