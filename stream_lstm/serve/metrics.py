"""What a running session has counted, over all its streams, for a thread that only looks.

Nothing here changes anything or holds up the loop: the columns of the tables of streams and of
scores are summed as they are at that moment, and numbers of different moments may stand together.
Ticks that wait in the session are not counted yet.

Durations counted in buckets that grow by half an octave, for a loop that has no time to spare.

Counting one costs a quarter of a microsecond: some arithmetic on whole numbers and an entry of a
list that is there already. What is served is made of it at a scrape.

How long the stages of a daemon take, at the cost of a microsecond for a published prediction.

Every update and every publication is timed by a proxy before it, as in a `Trace`. Of the calls
into the network only some are, ten a second of each kind: a proxy is put before the next one, and
takes itself away when it has timed it. All others run as if there were none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .daemon import Daemon
from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from ..core.scores import BOARD, WAYS
from ..core.session import Session
from ..core.table import EXPIRED, FRESH, Counters, N

LOWEST, HIGHEST = 10, 34
"""Octaves that are served: from 2^10 ns, a microsecond, to 2^34 ns, 17 seconds."""

SIZE = 2 * 64
"""Buckets: durations of up to 2^63 ns have one."""


class LogHistogram:
    """Counts durations in nanoseconds; one thread counts, any thread reads.

    A bucket (a, b] has b = 1.5 a or 4/3 a, so a quantile that is read off is at most so far away.
    """

    __slots__ = ("_counts", "sum_ns")

    def __init__(self) -> None:
        self._counts = [0] * SIZE
        self.sum_ns = 0

    def add(self, ns: int) -> None:
        """Count a duration; what is less than 4 ns, or negative, is in the first bucket."""
        below = ns - 1 if ns > 4 else 3
        octave = below.bit_length()
        self._counts[2 * octave + (below >> octave - 2 & 1)] += 1
        self.sum_ns += ns

    def buckets(self) -> list[tuple[str, int]]:
        """Return [(upper bound in seconds, durations up to it)], the last bound being +Inf."""
        counts = self._counts[:]  # one moment's
        out, total = [], 0
        for octave in range(HIGHEST + 1):
            for half in range(2):
                total += counts[2 * octave + half]
                bound = 2**octave * (3 + half) // 4
                if bound >= 2**LOWEST:
                    out.append((repr(bound / 1e9), total))
        return [*out, ("+Inf", sum(counts))]


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


FORECASTS = ("model", "base_rate", "last_label")
"""Whose log losses are summed, in the order of `scores.WAYS`."""

MOST_STREAMS = 100
"""Streams whose own figures are given."""

COUNTS = [BOARD.index(name) for name in ("labels", "positives", "model_correct")]
LOSSES = [BOARD.index(f"{way}_log_loss") for way in WAYS]
LOG_E = [BOARD.index(f"{bet}_better") for bet in ("coin", "base", "last")]
"""Log W of the bets that the model is better."""


class Scored(msgspec.Struct):
    """Labels, positive ones and right calls of the model; log losses of FORECASTS, in nats."""

    labels: int
    positives: int
    correct: int
    losses: tuple[float, ...]


class Totals(msgspec.Struct):
    """Sums over all streams."""

    streams: int
    warm: int
    elements: int
    expired: int
    counters: Counters
    scored: Scored


class OneStream(msgspec.Struct):
    """A stream; `evidence` is log W in nats against a coin, the base rate and the last label."""

    name: str
    elements: int
    warm: bool
    scored: Scored
    evidence: tuple[float, ...]


def totals(session: Session) -> Totals:
    """Return the sums over all streams of a session."""
    names, ints, board = _rows(session)
    counters = session.table.totals()
    counters.labels_unknown += session.stray_labels
    counters.refused_labels += session.stray_labels
    expired = sum(side.ledger.expired for side in list(session.sides.values()))
    return Totals(
        len(names),
        int(_warm(session, ints).sum()),
        int(ints[:, N].sum()),
        int(ints[:, EXPIRED].sum()) + expired,
        counters,
        _scored(board.sum(axis=0)),
    )


def _rows(
    session: Session, most: int | None = None
) -> tuple[Sequence[str], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the names of the streams, and their rows of the two tables, which may just grow."""
    names, ints, board = session.table.names[:most], session.table.ints, session.scores.board
    count = min(len(names), len(ints), len(board))
    return names[:count], ints[:count], board[:count]


def _warm(session: Session, ints: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    warm: npt.NDArray[np.bool_] = ints[:, N] - ints[:, FRESH] >= session.config.stream.window
    return warm


def _scored(row: npt.NDArray[np.float64]) -> Scored:
    labels, positives, correct = (int(count) for count in row[COUNTS].tolist())
    return Scored(labels, positives, correct, tuple(row[LOSSES].tolist()))


def some_streams(session: Session) -> Iterator[OneStream]:
    """Yield the first streams of a session: all of them may be too many to report."""
    names, ints, board = _rows(session, MOST_STREAMS)
    warm = _warm(session, ints).tolist()
    for row, name in enumerate(names):
        evidence = tuple(board[row, LOG_E].tolist())
        yield OneStream(name, int(ints[row, N]), warm[row], _scored(board[row]), evidence)


def warm_streams(session: Session, wanted: Iterable[str]) -> tuple[int, list[str]]:
    """Return (streams that are warm, those of `wanted` that are not)."""
    _, ints, _ = _rows(session)
    warm, places = _warm(session, ints).tolist(), session.table.places
    rows = {name: places.get(name, len(warm)) for name in wanted}
    return sum(warm), [name for name, row in rows.items() if not any(warm[row : row + 1])]
