"""How long the stages of a daemon take, at the cost of a microsecond for a published prediction.

Every update and every publication is timed by a proxy before it, as in a `Trace`. Of the calls
into the network only some are, ten a second of each kind: a proxy is put before the next one, and
takes itself away when it has timed it. All others run as if there were none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .histogram import LogHistogram

if TYPE_CHECKING:
    from .daemon import Daemon

SAMPLE_S = 0.1
"""Between two calls of a kind that are timed."""

CALLS = {"advance_in_place": "step", "window": "window", "run_strides": "strides"}
"""Calls of an engine that are timed now and then, and what they are called."""

TABLE_CALLS = {"step": "table"}
"""The same of its loop over many streams, where the daemon uses it."""


class Timings:
    """A context manager around the life of a daemon.

    clock: nanoseconds, monotonic. `tick_to_publish`: from taking a message that makes a prediction
    due from the socket until the prediction is handed to its own. `queue_age`: the longest that
    such a message can have waited in the socket. `step`: one call into the network, by kind.
    `update`: one update of the weights that is made by itself.
    """

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._clock = clock
        self.tick_to_publish, self.queue_age = LogHistogram(), LogHistogram()
        self.update = LogHistogram()
        self.step = {kind: LogHistogram() for kind in (*CALLS.values(), *TABLE_CALLS.values())}
        self._daemon: Daemon | None = None
        self._targets: list[tuple[Any, str, LogHistogram]] = []
        self._set: list[tuple[Any, str, Any, Any]] = []

    def attach(self, daemon: Daemon, clock: Callable[[], float]) -> None:
        """Begin to time; `clock` is the daemon's, in seconds."""
        self._daemon = daemon
        session, engine = daemon.session, daemon.session.engine
        self._targets = [(engine, name, self.step[kind]) for name, kind in CALLS.items()]
        self._put(engine, "update", self._timed(engine.update, self.update))
        if session.publish is not None:
            self._put(session, "publish", self._published(daemon, session.publish, clock))
        daemon.every(SAMPLE_S, self.sample)

    def _published(
        self, daemon: Daemon, publish: Callable[[Any], object], clock: Callable[[], float]
    ) -> Any:
        subscriber = daemon.subscriber
        took, waited = self.tick_to_publish.add, self.queue_age.add

        def published(prediction: Any) -> None:
            publish(prediction)
            took(int((clock() - subscriber.taken_at) * 1e9))
            waited(int(subscriber.queue_age_s * 1e9))

        return published

    def _timed(self, call: Callable[..., Any], into: LogHistogram) -> Any:
        clock, add = self._clock, into.add

        def timed(*given: Any) -> Any:
            start = clock()
            result = call(*given)
            add(clock() - start)
            return result

        return timed

    def sample(self) -> None:
        """Have the next call of each kind timed."""
        if self._daemon is not None and self._daemon.together:
            table, self._daemon = self._daemon.session.engine.table, None
            self._targets += [(table, name, self.step[kind]) for name, kind in TABLE_CALLS.items()]
        for owner, name, into in self._targets:
            if not any(target is owner and known == name for target, known, *_ in self._set):
                self._put(owner, name, self._once(owner, name, into))

    def _once(self, owner: Any, name: str, into: LogHistogram) -> Any:
        call, clock = getattr(owner, name), self._clock

        def once(*given: Any) -> Any:
            self._take_back(owner, name)
            start = clock()
            result = call(*given)
            into.add(clock() - start)
            return result

        return once

    def _put(self, owner: Any, name: str, proxy: Any) -> None:
        """Stand `proxy` before a method, in front of whatever stands there."""
        self._set.append((owner, name, vars(owner).get(name), proxy))
        setattr(owner, name, proxy)

    def _take_back(self, owner: Any, name: str) -> None:
        """Take a proxy away again, unless somebody else has put one in its place."""
        for k, (target, known, before, proxy) in enumerate(self._set):
            if target is owner and known == name:
                del self._set[k]
                if vars(owner).get(name) is not proxy:
                    return
                if before is None:
                    delattr(owner, name)
                else:
                    setattr(owner, name, before)
                return

    def __enter__(self) -> Timings:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for owner, name, *_ in self._set[::-1]:
            self._take_back(owner, name)
