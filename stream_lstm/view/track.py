"""What a page shows of one stream: rolling figures of bounded size.

A track takes predictions, scores and other events in blocks of any size, and never grows beyond
its limits, however long the run: lines over the whole run are thinned evenly, and only the last
predictions are shown one by one. It has no clock: times come with the records or are passed in. A
position is the pair (n, t_ns) of an element; figures go by time if the stream has times, else by
n.

A forecaster predicts 1 where its probability is above one half. So "last label" predicts that the
last label repeats, or that it turns if that was more frequent so far.
"""

from __future__ import annotations

from collections import Counter, deque
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from ..core.losses import log_losses
from ..core.scores import Scoreboard
from ..core.scores import Scores as ScoreTable
from ..events import MAX_COUNT, Prediction, Score
from ..records import Batch, fields_of
from ..typing import Bools, Float64s, Int64s

FORECASTS = ("p", "base_rate_p", "last_label_p")
"""Fields of a score that are forecasts: of model, base rate and last label."""

EVIDENCE = ("coin_evidence", "base_rate_evidence", "last_label_evidence")
"""Fields of a score that are log W in nats, against coin, base rate and last label."""

NEEDED = tuple(
    dict.fromkeys(
        [field.name for kind in (Prediction, Score) for field in fields_of(kind) if field.required]
        + ["after_gap", *EVIDENCE]
    )
)
"""Fields without which there are no figures."""

WINDOW = 1000
"""Labels of a rolling figure, as `score_window` has by default."""

POINTS = 1500
"""Of a line over the whole run: more than a screen has pixels for it."""

RECENT = 100
"""Predictions that are shown one by one."""

MAX_TARGETS = 4000
"""Elements whose target is shown."""

MAX_EVENTS = 200
"""Gaps, silences, refused updates and roll-backs of each kind; the oldest are dropped."""

MIN_SEEN = 8192
"""Scores, at least, whose repetition is recognised."""

LATENCIES = 10_000
"""Latencies in the quantiles."""

MAX_LATENCY_S = 60.0
"""An older tick carries a time of the past, which gives no latency."""

Position: TypeAlias = tuple[int, int]
IntervalKind: TypeAlias = Literal["gap", "stale"]


class Updates(NamedTuple):
    """n optimiser updates; `t_ns` are the times of their predictions.

    `reasons` are those of the refused updates, in their order; "" for an unknown one.
    """

    n: Int64s
    t_ns: Int64s
    loss: Float64s
    grad_norm: Float64s
    accepted: Bools
    reasons: list[str]


class Targets(NamedTuple):
    """The targets of n elements."""

    n: Int64s
    t_ns: Int64s
    value: Float64s


NO_TARGETS = Targets(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


class Downsampled:
    """Rows float64 (m, width) of a series of any length: each k-th, k doubling as it grows."""

    def __init__(self, width: int, capacity: int = POINTS) -> None:
        self.seen = 0
        self._capacity, self._step = capacity, 1
        self._sample = self._last = np.empty((0, width))

    def extend(self, rows: Float64s) -> None:
        """Take the next rows."""
        if not len(rows):
            return
        self._sample = np.concatenate([self._sample, rows[-self.seen % self._step :: self._step]])
        self._last = rows[-1:]
        self.seen += len(rows)
        while len(self._sample) > self._capacity:
            self._sample = self._sample[::2].copy()
            self._step *= 2

    def rows(self) -> Float64s:
        """Return the sample with the last row."""
        has_last = not self.seen or (self.seen - 1) % self._step == 0
        return self._sample if has_last else np.concatenate([self._sample, self._last])


class Rolling:
    """Means of columns over the last `window` rows."""

    def __init__(self, width: int, window: int = WINDOW) -> None:
        self._window = window
        self._tail = np.empty((0, width))

    def extend(self, rows: Float64s) -> Float64s:
        """Take rows (m, width); return the means (m, width) after each."""
        whole = np.concatenate([self._tail, rows])
        sums = np.concatenate([np.zeros((1, rows.shape[1])), np.cumsum(whole, axis=0)])
        ends = np.arange(len(self._tail) + 1, len(whole) + 1)
        starts = np.maximum(ends - self._window, 0)
        self._tail = whole[-self._window :]
        means: Float64s = (sums[ends] - sums[starts]) / (ends - starts)[:, None]
        return means


class Interval(NamedTuple):
    """A period between two positions; `end` is None while it lasts."""

    kind: IntervalKind
    start: Position
    end: Position | None


class RecentPrediction(NamedTuple):
    """One of the last predictions; `label` is None while it is pending."""

    n: int
    t_ns: int
    p: float
    label: int | None


class Rollback(NamedTuple):
    """Where weights were rolled back, and a sentence why."""

    n: int
    t_ns: int
    reason: str


class Track:
    """One stream.

    window: labels of the rolling figures.

    Attributes: `predictions`, `missed` (ticks), `updates`, `refused` (updates; `refused_for` by
    reason) and `rollbacks` are counts; `last` is the position of the last prediction; `has_store`
    says that a store gives what is not published. A row of `lines` is n, t_ns, the rolling
    accuracies of model, base rate and last label, their log losses (nats), the log W against coin,
    base rate and last label (nats), and the number of the label. A row of `norms` is n, t_ns,
    gradient norm and loss.
    """

    def __init__(self, stream: str, window: int = WINDOW) -> None:
        self.stream, self.window = stream, window
        self._scores = ScoreTable(window)
        self.predictions = self.missed = self.updates = self.refused = self.rollbacks = 0
        self.last: Position = (0, 0)
        self.first_t_ns = 0
        self.has_store = False
        self.lines = Downsampled(2 + 6 + 3 + 1)
        self.norms = Downsampled(4)
        self.refusals: deque[Position] = deque(maxlen=MAX_EVENTS)
        self.refused_for: Counter[str] = Counter()
        self.rolled_back: deque[Rollback] = deque(maxlen=MAX_EVENTS)
        self.intervals: deque[Interval] = deque(maxlen=MAX_EVENTS)
        self.latencies: deque[float] = deque(maxlen=LATENCIES)
        self._rolling = Rolling(6, window)
        self._recent: dict[int, RecentPrediction] = {}
        self._flagged = False
        self._targets = NO_TARGETS
        self._seen: dict[int, float] = {}

    # ---- input --------------------------------------------------------------------------

    def predict(self, batch: Batch[Prediction]) -> None:
        """Take predictions; those up to the last one taken are repetitions."""
        batch = batch.take(batch["n"] > self.last[0])
        if not len(batch):
            return
        n, t_ns, p = (batch[name].tolist() for name in ("n", "t_ns", "p"))
        if not self.predictions:
            self.first_t_ns = t_ns[0]
        self._follow_flags(batch["after_gap"], list(zip(n, t_ns, strict=True)))
        self.predictions += len(n)
        self.last = n[-1], t_ns[-1]
        self._close("stale", self.last)
        for row in zip(n[-RECENT:], t_ns[-RECENT:], p[-RECENT:], strict=True):
            self._recent[row[0]] = RecentPrediction(*row, None)
        while len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]

    def shows_restart(self, n: int, t_ns: int, p: float) -> bool:
        """Return whether a prediction shows that the stream restarted, and n with it.

        A repeated prediction is equal to the first; after a restart, a low n has a later time.
        """
        if n > self.last[0]:
            return False
        recent = self._recent.get(n)
        known = self._seen.get(n) if recent is None else recent.p
        return known != p and (not self.by_time or t_ns > self.last[1])

    def _follow_flags(self, flagged: Bools, positions: list[Position]) -> None:
        """Note the gaps around predictions that are flagged as following a loss."""
        before = np.concatenate([[self._flagged], flagged[:-1]])
        for k in np.flatnonzero(before != flagged).tolist():
            previous = positions[k - 1] if k else self.last
            if flagged[k]:
                start = previous if previous[0] else positions[k]
                self.intervals.append(Interval("gap", start, None))
            else:
                self._close("gap", previous)
        self._flagged = bool(flagged[-1])

    def score(self, batch: Batch[Score]) -> None:
        """Take scores; those taken before are repetitions."""
        batch = batch.take(np.array([n not in self._seen for n in batch["n"].tolist()], np.bool_))
        if not len(batch):
            return
        n, label = batch["n"], batch["label"].astype(np.int8)
        p = np.stack([batch[name] for name in FORECASTS])
        self._seen.update(zip(n[-MIN_SEEN:].tolist(), p[0, -MIN_SEEN:].tolist(), strict=True))
        if len(self._seen) > 2 * MIN_SEEN:  # many at a time: each removal passes the empty places
            self._seen = dict(islice(self._seen.items(), len(self._seen) - MIN_SEEN, None))
        calls = p > 0.5
        right, losses = calls == (label == 1), log_losses(p, label == 1)
        self._scores.extend(np.zeros(len(n), np.int64), label, calls[2].astype(np.int8), p)
        means = self._rolling.extend(np.concatenate([right.astype(np.float64), losses]).T)
        numbers = int(self._scores.board[0, 0]) - np.arange(len(n))[::-1]
        at, evidence = [n, batch["t_ns"]], [batch[name] for name in EVIDENCE]
        self.lines.extend(np.column_stack([*at, means, *evidence, numbers]))
        for k, outcome in zip(n[-RECENT:].tolist(), label[-RECENT:].tolist(), strict=True):
            if k in self._recent:
                self._recent[k] = self._recent[k]._replace(label=outcome)

    def update(self, batch: Updates) -> None:
        """Take optimiser updates."""
        accepted, refused = batch.accepted, ~batch.accepted
        self.updates += int(accepted.sum())
        self.refused += int(refused.sum())
        self.refusals.extend(
            zip(batch.n[refused].tolist(), batch.t_ns[refused].tolist(), strict=True)
        )
        self.refused_for.update(batch.reasons)
        rows = np.column_stack([batch.n, batch.t_ns, batch.grad_norm, batch.loss])
        self.norms.extend(rows[accepted])

    def roll_back(self, n: int, t_ns: int, reason: str) -> None:
        """Note that the weights were rolled back after the label of prediction n."""
        self.rollbacks += 1
        self.rolled_back.append(Rollback(n, t_ns, reason))

    def miss(self, ticks: int) -> None:
        """Count lost ticks."""
        self.missed = min(self.missed + ticks, MAX_COUNT)

    def target(self, batch: Targets) -> None:
        """Take the targets of later elements."""
        joined = (
            np.concatenate(pair)[-MAX_TARGETS:] for pair in zip(self._targets, batch, strict=True)
        )
        self._targets = Targets(*joined)

    def fall_silent(self) -> None:
        """Note that the feed or the daemon is silent; the next prediction ends it."""
        silent = any(one.kind == "stale" and one.end is None for one in self.intervals)
        if self.last[0] and not silent:
            self.intervals.append(Interval("stale", self.last, None))

    def arrive(self, latencies_s: Float64s) -> None:
        """Take the seconds from ticks' times to the arrival of their predictions."""
        live = (latencies_s >= 0.0) & (latencies_s < MAX_LATENCY_S)
        self.latencies.extend(latencies_s[live].tolist())

    def _close(self, kind: IntervalKind, end: Position) -> None:
        for k, interval in enumerate(self.intervals):
            if interval.kind == kind and interval.end is None:
                self.intervals[k] = interval._replace(end=end)

    # ---- output -------------------------------------------------------------------------

    @property
    def scores(self) -> Scoreboard:
        """The scores of all labels."""
        return self._scores.of(0)

    @property
    def by_time(self) -> bool:
        """Whether the stream has increasing times."""
        return 0 < self.first_t_ns < self.last[1]

    def x(self, n: Any, t_ns: Any) -> Any:
        """Return positions on the x axis: milliseconds since 1970, or n."""
        return np.asarray(t_ns) / 1e6 if self.by_time else np.asarray(n, np.float64)

    def recent(self) -> list[RecentPrediction]:
        """Return the last predictions."""
        return list(self._recent.values())

    def targets(self) -> Targets:
        """Return the targets around the last predictions."""
        shown = self._targets.n >= min(self._recent, default=0)
        n, t_ns, value = self._targets
        return Targets(n[shown], t_ns[shown], value[shown])

    def latency_quantiles(self) -> tuple[float, float, float] | None:
        """Return p50, p99 and p99.9 of the latencies in seconds, None without any."""
        if not self.latencies:
            return None
        p50, p99, p999 = np.percentile(np.array(self.latencies), (50, 99, 99.9)).tolist()
        return p50, p99, p999
