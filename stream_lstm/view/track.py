"""What is known of one stream for people to look at: rolling figures of bounded size.

A track takes predictions, scores and what else happened, in blocks of any size, and never grows
beyond its limits, however long the run is: lines over the whole run are thinned evenly, and what
is shown one by one is of the last predictions alone. It has no clock: times come with the records
or are passed in. "Position" is the pair (n, t_ns) of an element; figures go by time where the
stream has times, else by n.

Every forecaster calls a label 1 where it gives it more than one half. So the call of "last label"
is that the last label comes again, or that it does not where the contrary came more often so far:
a score tells what repetition gave, and not which label was the last.

What a track takes beside predictions and scores, as columns, and the fields that it shows.
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


def forecasts(scores: Batch[Score]) -> Float64s:
    """Return the `FORECASTS` of n scores, float64 (3, n)."""
    return np.stack([scores[name] for name in FORECASTS])


class Updates(NamedTuple):
    """n optimiser updates; `t_ns` is the time of the prediction that each came of.

    `reasons` are those of the refused ones, in their order; "" where it is not known.
    """

    n: Int64s
    t_ns: Int64s
    loss: Float64s
    grad_norm: Float64s
    accepted: Bools
    reasons: list[str]


class Targets(NamedTuple):
    """The target of n elements."""

    n: Int64s
    t_ns: Int64s
    value: Float64s

    @classmethod
    def none(cls) -> Targets:
        """Return those of no element."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))

    def joined(self, other: Targets) -> Targets:
        """Return these and those of later elements."""
        return Targets(
            np.concatenate([self.n, other.n]),
            np.concatenate([self.t_ns, other.t_ns]),
            np.concatenate([self.value, other.value]),
        )

    def at(self, rows: Bools | slice) -> Targets:
        """Return some of the rows."""
        return Targets(self.n[rows], self.t_ns[rows], self.value[rows])


WINDOW = 1000
"""Labels of a rolling figure, as `score_window` has by default."""

POINTS = 1500
"""Of a line over the whole run: more than a screen has pixels for it."""

RECENT = 100
"""Predictions that are shown one by one, and labels of some earlier ones are still waited for."""

TARGETS = 4000
"""Elements whose target is shown."""

MARKS = 200
"""Gaps, silences, refused updates and roll-backs that are kept of each kind; the oldest go."""

SEEN = 8192
"""Scores, at least, of which a repetition is known for one."""

LATENCIES = 10_000
"""Times to here from which the quantiles are made."""

MAX_LATENCY_S = 60.0
"""A tick that is older came with times of another day, of which no latency can be told."""

Position: TypeAlias = tuple[int, int]
IntervalKind: TypeAlias = Literal["gap", "stale"]


class Thinned:
    """Rows float64 (m, width) of a series of any length: each k-th, k doubling as it grows."""

    def __init__(self, width: int, capacity: int = POINTS) -> None:
        self.seen = 0
        self._capacity, self._step = capacity, 1
        self._kept = np.empty((0, width))
        self._last = self._kept

    def extend(self, rows: Float64s) -> None:
        """Take the rows that come next."""
        if not len(rows):
            return
        self._kept = np.concatenate([self._kept, rows[-self.seen % self._step :: self._step]])
        self._last = rows[-1:]
        self.seen += len(rows)
        while len(self._kept) > self._capacity:
            self._kept = self._kept[::2].copy()
            self._step *= 2

    def rows(self) -> Float64s:
        """Return what is kept, and the last row in any case."""
        last_is_kept = not self.seen or (self.seen - 1) % self._step == 0
        return self._kept if last_is_kept else np.concatenate([self._kept, self._last])


class Rolling:
    """Means of columns over the last `window` rows."""

    def __init__(self, width: int, window: int = WINDOW) -> None:
        self._window = window
        self._tail = np.empty((0, width))

    def extend(self, rows: Float64s) -> Float64s:
        """Take rows (m, width); return the means (m, width) as they are after each."""
        whole = np.concatenate([self._tail, rows])
        sums = np.concatenate([np.zeros((1, rows.shape[1])), np.cumsum(whole, axis=0)])
        ends = np.arange(len(self._tail) + 1, len(whole) + 1)
        starts = np.maximum(ends - self._window, 0)
        self._tail = whole[-self._window :]
        means: Float64s = (sums[ends] - sums[starts]) / (ends - starts)[:, None]
        return means


class Interval(NamedTuple):
    """From one position to another; `end` is None while it lasts."""

    kind: IntervalKind
    start: Position
    end: Position | None


class Shown(NamedTuple):
    """A prediction of the last ones; `label` is None while it is waited for."""

    n: int
    t_ns: int
    p: float
    label: int | None


class Rollback(NamedTuple):
    """Where weights went back, and why in words."""

    n: int
    t_ns: int
    reason: str


class Track:
    """One stream.

    window: labels of the rolling figures.

    Attributes: `predictions`, `missed` (ticks), `updates`, `refused` (updates; `refused_for` by
    reason) and `rollbacks` are counts; `last` is the position of the last prediction; `has_store`
    says that a store contains what is not published. A row of `lines` is n, t_ns, the rolling
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
        self.lines = Thinned(2 + 6 + 3 + 1)
        self.norms = Thinned(4)
        self.refusals: deque[Position] = deque(maxlen=MARKS)
        self.refused_for: Counter[str] = Counter()
        self.rolled_back: deque[Rollback] = deque(maxlen=MARKS)
        self.spells: deque[Interval] = deque(maxlen=MARKS)
        self.latencies: deque[float] = deque(maxlen=LATENCIES)
        self._rolling = Rolling(6, window)
        self._recent: dict[int, Shown] = {}
        self._flagged = False
        self._targets = Targets.none()
        self._seen: dict[int, float] = {}

    # ---- what comes in ------------------------------------------------------------------

    def predict(self, came: Batch[Prediction]) -> None:
        """Take predictions; those up to the last one that was taken are repetitions."""
        came = came.take(came["n"] > self.last[0])
        if not len(came):
            return
        if not self.predictions:
            self.first_t_ns = int(came["t_ns"][0])
        self._follow_flags(came)
        self.predictions += len(came)
        self.last = int(came["n"][-1]), int(came["t_ns"][-1])
        self._end_silence()
        tail = came.take(slice(-RECENT, None))
        for n, t_ns, p in zip(*(tail[name].tolist() for name in ("n", "t_ns", "p")), strict=True):
            self._recent[n] = Shown(n, t_ns, p, None)
        while len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]

    def is_of_another_life(self, n: int, t_ns: int, p: float) -> bool:
        """Return whether a prediction shows that the stream was begun anew, its n with it.

        A prediction that is published once more is the same; of a new beginning it is a later
        one under a lower n.
        """
        if n > self.last[0]:
            return False
        shown = self._recent.get(n)
        known = self._seen.get(n) if shown is None else shown.p
        return known != p and (not self.by_time or t_ns > self.last[1])

    def _follow_flags(self, came: Batch[Prediction]) -> None:
        """Note the spells of predictions that are flagged as following a loss."""
        flagged = came["after_gap"]
        before = np.concatenate([[self._flagged], flagged[:-1]])
        where = list(zip(came["n"].tolist(), came["t_ns"].tolist(), strict=True))
        for k in np.flatnonzero(before != flagged).tolist():
            previous = where[k - 1] if k else self.last
            if flagged[k]:
                self.spells.append(Interval("gap", previous if previous[0] else where[k], None))
            else:
                self._close("gap", previous)
        self._flagged = bool(flagged[-1])

    def score(self, came: Batch[Score]) -> None:
        """Take scores; one that was taken before is a repetition."""
        new = [n not in self._seen for n in came["n"].tolist()]
        if not all(new):
            came = came.take(np.array(new))
        if not len(came):
            return
        n, p, label = came["n"], forecasts(came), came["label"].astype(np.int8)
        self._seen.update(zip(n[-SEEN:].tolist(), p[0, -SEEN:].tolist(), strict=True))
        if len(self._seen) > 2 * SEEN:
            # not one by one: the place of what went first is passed at every look for the next
            self._seen = dict(islice(self._seen.items(), len(self._seen) - SEEN, None))
        positive = label == 1
        losses = log_losses(p, positive)
        calls = p > 0.5
        right = calls == positive
        rows = np.zeros(len(label), np.int64)
        self._scores.extend(rows, label.astype(np.int8), calls[2].astype(np.int8), p)
        means = self._rolling.extend(np.concatenate([right.astype(np.float64), losses]).T)
        labels = int(self._scores.board[0, 0])
        at, evidence = (np.stack([came[x] for x in of], 1) for of in (("n", "t_ns"), EVIDENCE))
        look = np.arange(labels - len(n) + 1, labels + 1)[:, None]
        self.lines.extend(np.concatenate([at, means, evidence, look], axis=1))
        for one, truth in zip(n[-RECENT:].tolist(), label[-RECENT:].tolist(), strict=True):
            if one in self._recent:
                self._recent[one] = self._recent[one]._replace(label=truth)

    def update(self, came: Updates) -> None:
        """Take optimiser updates."""
        self.updates += int(came.accepted.sum())
        refused = ~came.accepted
        self.refused += int(refused.sum())
        where = zip(came.n[refused].tolist(), came.t_ns[refused].tolist(), strict=True)
        self.refusals.extend(where)
        self.refused_for.update(came.reasons)
        rows = np.stack([came.n, came.t_ns, came.grad_norm, came.loss], axis=1)
        self.norms.extend(rows[came.accepted])

    def roll_back(self, n: int, t_ns: int, reason: str) -> None:
        """Note that the weights went back after the label of prediction n."""
        self.rollbacks += 1
        self.rolled_back.append(Rollback(n, t_ns, reason))

    def lose(self, ticks: int) -> None:
        """Note that so many ticks were lost."""
        self.missed = min(self.missed + ticks, MAX_COUNT)

    def target(self, came: Targets) -> None:
        """Take the targets of elements."""
        self._targets = self._targets.joined(came).at(slice(-TARGETS, None))

    def fall_silent(self) -> None:
        """Note that nothing comes any more; the next prediction ends it."""
        if self.last[0] and not any(spell.end is None for spell in self.silences()):
            self.spells.append(Interval("stale", self.last, None))

    def arrive(self, latencies_s: Float64s) -> None:
        """Take the seconds from ticks' times to the arrival of their predictions."""
        told = latencies_s[(latencies_s >= 0.0) & (latencies_s < MAX_LATENCY_S)]
        self.latencies.extend(told.tolist())

    def _end_silence(self) -> None:
        self._close("stale", self.last)

    def _close(self, kind: IntervalKind, end: Position) -> None:
        for k, spell in enumerate(self.spells):
            if spell.kind == kind and spell.end is None:
                self.spells[k] = spell._replace(end=end)

    # ---- what is shown ------------------------------------------------------------------

    @property
    def scores(self) -> Scoreboard:
        """The scores of all labels that were taken."""
        return self._scores.of(0)

    @property
    def by_time(self) -> bool:
        """Whether the stream has times that go on."""
        return 0 < self.first_t_ns < self.last[1]

    def x(self, n: Any, t_ns: Any) -> Any:
        """Return where positions lie on the axis: milliseconds since 1970, or n."""
        return np.asarray(t_ns) / 1e6 if self.by_time else np.asarray(n, np.float64)

    def recent(self) -> list[Shown]:
        """Return the last predictions."""
        return list(self._recent.values())

    def targets(self) -> Targets:
        """Return the targets around the last predictions."""
        first = min(self._recent, default=0)
        return self._targets.at(self._targets.n >= first)

    def silences(self) -> list[Interval]:
        """Return the spells in which nothing came."""
        return [spell for spell in self.spells if spell.kind == "stale"]

    def latency_quantiles(self) -> tuple[float, float, float] | None:
        """Return p50, p99 and p99.9 of the latencies in seconds, None without any."""
        if not self.latencies:
            return None
        p50, p99, p999 = np.percentile(np.array(self.latencies), (50, 99, 99.9)).tolist()
        return p50, p99, p999
