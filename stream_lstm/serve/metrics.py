"""Figures of a running daemon: counts over its streams, and how long its stages take.

`totals` and its companions read the columns of the tables of streams and scores from another
thread. They change nothing and do not delay the loop; figures of different moments may appear
together, and ticks that still wait in the session are not counted.

`LogHistogram` counts a duration in a quarter of a microsecond, into buckets half an octave wide.

`Timings` times every update and every publication through a proxy method, as `Trace` does, and of
the calls into the network ten a second of each kind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ..closing import Closing
from ..core.scores import BOARD, WAYS
from ..core.session import Session
from ..core.table import EXPIRED, FRESH, Counters, N
from ..events import Prediction
from ..typing import Bools, Float64s, Int64s
from .trace import Patches

if TYPE_CHECKING:
    from .daemon import Daemon

LOWEST, HIGHEST = 10, 34
"""Octaves of the served buckets: from 2^10 ns, a microsecond, to 2^34 ns, 17 seconds."""

SIZE = 2 * 64
"""Buckets: durations of up to 2^63 ns have one."""

SAMPLE_S = 0.1
"""Between two timed calls of a kind."""

CALLS = {"advance_in_place": "step", "window": "window", "run_strides": "strides"}
"""Sampled methods of an engine, and the label of each."""

TABLE_CALLS = {"step": "table"}
"""The same for its loop over many streams, where the daemon uses it."""

FORECASTS = ("model", "base_rate", "last_label")
"""The forecasts whose log losses are summed, in the order of `scores.WAYS`."""

MOST_STREAMS = 100
"""Streams with figures of their own."""

COUNTS = [BOARD.index(name) for name in ("labels", "positives", "model_correct")]
LOSSES = [BOARD.index(f"{way}_log_loss") for way in WAYS]
LOG_E = [BOARD.index(f"{bet}_better") for bet in ("coin", "base", "last")]
"""Columns of log W of the bets that the model is better."""


class LogHistogram:
    """Counts durations in nanoseconds; one thread counts, any thread reads.

    A bucket (a, b] has b = 1.5 a or b = 4/3 a, which bounds the error of a quantile.
    """

    __slots__ = ("_counts", "sum_ns")

    def __init__(self) -> None:
        self._counts = [0] * SIZE
        self.sum_ns = 0

    def add(self, ns: int) -> None:
        """Count a duration; the first bucket also counts everything below 4 ns."""
        below = ns - 1 if ns > 4 else 3
        octave = below.bit_length()
        self._counts[2 * octave + (below >> octave - 2 & 1)] += 1
        self.sum_ns += ns

    def buckets(self) -> list[tuple[str, int]]:
        """Return [(upper bound in seconds, durations up to it)]; the last bound is +Inf."""
        counts = self._counts[:]  # of one moment
        out, total = [], 0
        for octave in range(HIGHEST + 1):
            for half in range(2):
                total += counts[2 * octave + half]
                bound = 2**octave * (3 + half) // 4
                if bound >= 2**LOWEST:
                    out.append((repr(bound / 1e9), total))
        return [*out, ("+Inf", sum(counts))]


class Timings(Closing):
    """Histograms of a daemon's stages; a context manager around its life.

    clock: nanoseconds, monotonic. `tick_to_publish`: from taking a message that makes a prediction
    due to handing the prediction to its socket. `queue_age`: the longest time that such a message
    can have waited in the socket. `step`: one call into the network, by kind. `update`: one single
    update of the weights.
    """

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._clock = clock
        self.tick_to_publish, self.queue_age = LogHistogram(), LogHistogram()
        self.update = LogHistogram()
        self.step = {kind: LogHistogram() for kind in (*CALLS.values(), *TABLE_CALLS.values())}
        self._due: set[str] = set()
        self._daemon: Daemon | None = None
        self._patches = Patches()

    def attach(self, daemon: Daemon, clock: Callable[[], float]) -> None:
        """Start timing; clock: that of the daemon, in seconds."""
        session, engine, subscriber = daemon.session, daemon.session.engine, daemon.subscriber
        took, waited = self.tick_to_publish.add, self.queue_age.add
        self._patches.put(engine, "update", self._timed(engine.update, self.update))
        if (publish := session.publish) is not None:

            def published(prediction: Prediction) -> None:
                publish(prediction)
                took(int((clock() - subscriber.taken_at) * 1e9))
                waited(int(subscriber.queue_age_s * 1e9))

            self._patches.put(session, "publish", published)
        self._sampled(engine, CALLS)
        self._daemon = daemon
        daemon.every(SAMPLE_S, self.sample)
        daemon.at_close(self.close)

    def _timed(self, call: Callable[..., Any], into: LogHistogram) -> Any:
        clock, add = self._clock, into.add

        def timed(*arguments: Any) -> Any:
            start = clock()
            result = call(*arguments)
            add(clock() - start)
            return result

        return timed

    def _sampled(self, owner: object, calls: Mapping[str, str]) -> None:
        for name, kind in calls.items():
            call = getattr(owner, name)
            timed = self._timed(call, self.step[kind])
            self._patches.put(owner, name, _sampler(call, timed, kind, self._due))

    def sample(self) -> None:
        """Time the next call of each kind."""
        if self._daemon is not None and self._daemon.columnar:
            self._sampled(self._daemon.session.engine.table, TABLE_CALLS)
            self._daemon = None
        self._due.update(self.step)

    def close(self) -> None:
        """Remove the proxies."""
        self._patches.close()


def _sampler(call: Any, timed: Any, kind: str, due: set[str]) -> Any:
    """Return `call`, `timed` where its kind is due."""

    def sampled(*arguments: Any) -> Any:
        if kind not in due:
            return call(*arguments)
        due.remove(kind)
        return timed(*arguments)

    return sampled


class Scored(msgspec.Struct):
    """Labels, positive ones, correct calls of the model; log losses of FORECASTS, in nats."""

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
    expired = sum(extras.ledger.expired for extras in list(session.extras.values()))
    return Totals(
        len(names),
        int(_warm(session, ints).sum()),
        int(ints[:, N].sum()),
        int(ints[:, EXPIRED].sum()) + expired,
        counters,
        _scored(board.sum(axis=0)),
    )


def first_streams(session: Session) -> Iterator[OneStream]:
    """Yield the first MOST_STREAMS streams of a session."""
    names, ints, board = _rows(session, MOST_STREAMS)
    warm = _warm(session, ints).tolist()
    for row, name in enumerate(names):
        evidence = tuple(board[row, LOG_E].tolist())
        yield OneStream(name, int(ints[row, N]), warm[row], _scored(board[row]), evidence)


def warm_streams(session: Session, wanted: Iterable[str]) -> tuple[int, list[str]]:
    """Return (number of warm streams, names of `wanted` that are not warm)."""
    _, ints, _ = _rows(session)
    warm, places = _warm(session, ints).tolist(), session.table.places
    rows = {name: places.get(name, len(warm)) for name in wanted}
    return sum(warm), [name for name, row in rows.items() if not any(warm[row : row + 1])]


def _rows(session: Session, most: int | None = None) -> tuple[Sequence[str], Int64s, Float64s]:
    """Return names of streams and their rows of the two tables, which may grow meanwhile."""
    names, ints, board = session.table.names[:most], session.table.ints, session.scores.board
    count = min(len(names), len(ints), len(board))
    return names[:count], ints[:count], board[:count]


def _warm(session: Session, ints: Int64s) -> Bools:
    warm: Bools = ints[:, N] - ints[:, FRESH] >= session.config.stream.window
    return warm


def _scored(row: Float64s) -> Scored:
    labels, positives, correct = (int(count) for count in row[COUNTS].tolist())
    return Scored(labels, positives, correct, tuple(row[LOSSES].tolist()))
