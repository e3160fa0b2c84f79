"""Is the model better than a plain forecaster? Answers that are valid at every look.

**Bets.** At each label d in [-1, 1] measures how much better the model did. If the model is no
better, so the mean of d given the past is at most 0, this game is fair or worse: start with a
capital W of 1, and before each label stake a part lambda of it, which is known before that label
and never negative,

```
W <- W (1 + lambda d)         lambda = clip(sum of past d / (sum of past d^2 + 100), 0, 1/2)
```

Then W is an e-process. By Ville's inequality the probability that it EVER reaches 20 is at most
1/20. So a look after every label costs nothing, and what was once proven remains proven: the
highest W is stored beside the present one. The same game on -d tests whether the model is worse.
Against a coin, d is 1 for a right call and -1 for a wrong one; against a forecaster it is the
difference of the log losses in nats, clipped to [-1, 1]. "W : 1" is the evidence; log W is in
nats.

A won bet refutes that the model was expected to do better at no label. A model that is better for
a while and worse for another can win both bets; the band of the mean shows the sum of both. "The
past" is everything known when the label before this one came. If that is later than the
prediction, with a horizon above the stride or late external labels, runs of equal labels count as
evidence although they were not known when the predictions were made: the evidence is too strong.

**Bands.** They hold at all label counts together with 95 %. The band of the accuracy is Robbins'
normal mixture over a variance of at most 1/4 per label; that of a mean difference is the empirical
Bernstein bound, whose width follows the spread of the differences. They contain the mean, over the
labels so far, of what was expected given the past; the labels need not be alike.

**Several streams.** The mean of e-processes is an e-process whatever their dependence. The weights
must not be chosen by success, so each stream with a label counts the same. The highest mean does
not follow from the streams' own records, but it was at least the highest W of any of K streams
divided by K, and it is at least the present mean; the larger of the two is given. Bands pool their
sums: over the labels of all streams, in the order of arrival, these are sums of the same
martingales, and what was expected of a label may be anything known before it came, so also the
mean of its own stream.

**Two forms of one game.** `play` takes one label in Python floats, `play_many` any number of
labels of any number of streams in arrays. Both give the same bits.

Sources: Ville, "Etude critique de la notion de collectif", 1939; Robbins, "Statistical methods
related to the law of the iterated logarithm", 1970; Howard, Ramdas, McAuliffe and Sekhon,
"Time-uniform, nonparametric, nonasymptotic confidence sequences", 2021; Choe and Ramdas,
"Comparing sequential forecasters", 2023; Waudby-Smith and Ramdas, "Estimating means of bounded
random variables by betting", 2024; Vovk and Wang, "E-values", 2021, for means of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from math import log
from statistics import NormalDist
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..typing import Float64s
from .losses import Grid, logs, peak, running

ALPHA = 0.05
"""Probability of a false alarm: of one bet, ever, and of one band."""

PROVEN = math.log(1.0 / ALPHA)
"""log W, in nats, from which a bet counts as won: 20 : 1."""

CAUTION = 100.0
"""Labels' worth of doubt in a stake: less stakes too much early, more rises slowly."""

MAX_STAKE = 0.5
"""At d = -1 half of the capital is left: no single label can end a game."""

ACCURACY_RHO = 320.0
"""Intrinsic time at which the band of the accuracy is tightest for its age: some 1000 labels."""

STITCH_S = 1.4
STITCH_SCALE = (2**0.25 + 2**-0.25) / math.sqrt(2)
STITCH_SHIFT = (math.sqrt(2) + 1) / 2
ZETA_S = 3.105547277674938
"""Of the stitched boundary, with eta = 2: the exponent s, k1, k2 and zeta(s)."""

BET = (
    "total",  # sum of d
    "squares",  # sum of d^2
    "spread",  # sum of (d - mean of those before it)^2
    "cut",  # labels whose d was outside [-1, 1]
    "better",  # log W in nats that the model is better,
    "better_highest",  # its highest value,
    "better_reached",  # and the labels when it reached 20 : 1, 0 if it never did
    "worse",
    "worse_highest",
    "worse_reached",
)
"""The state of a bet beside its count of labels, all float64."""

WEALTH, HIGHEST, REACHED = [4, 7], [5, 8], [6, 9]
"""Indices in `BET` of both games, better first."""

BetState: TypeAlias = tuple[float, ...]


def play(
    labels: float,
    d: float,
    total: float,
    squares: float,
    spread: float,
    cut: float,
    better: float,
    better_highest: float,
    better_reached: float,
    worse: float,
    worse_highest: float,
    worse_reached: float,
) -> BetState:
    """Return the state `BET` after one label with difference `d`, from that after `labels`.

    d: positive if the model did better; clipped to [-1, 1].
    """
    if not -1.0 <= d <= 1.0:
        d = 1.0 if d > 0.0 else -1.0
        cut += 1.0
    off = d - total / labels if labels else d
    # At most one of the two games has a stake.
    if total > 0.0:
        stake = total / (squares + CAUTION)
        better += log(1.0 + (stake if stake < MAX_STAKE else MAX_STAKE) * d)
        if better > better_highest:
            better_highest = better
            if better >= PROVEN and not better_reached:
                better_reached = labels + 1.0
    elif total < 0.0:
        stake = -total / (squares + CAUTION)
        worse += log(1.0 + (stake if stake < MAX_STAKE else MAX_STAKE) * -d)
        if worse > worse_highest:
            worse_highest = worse
            if worse >= PROVEN and not worse_reached:
                worse_reached = labels + 1.0
    return (
        total + d,
        squares + d * d,
        spread + off * off,
        cut,
        better,
        better_highest,
        better_reached,
        worse,
        worse_highest,
        worse_reached,
    )


def play_many(
    grid: Grid, labels: Float64s, bets: Float64s, d: Float64s
) -> tuple[Float64s, Float64s]:
    """Play n labels of u streams in b bets each, to the bits of `play`.

    labels: of each stream so far (u,); bets: their states `BET` (b, 10, u); d: (b, n) in the
    order of the grid. Returns the states after all labels, and log W (b, n) that the model is
    better, after each label.
    """
    after = bets.copy()  # C order: its columns are read and written whole
    clipped = np.clip(d, -1.0, 1.0)
    totals = running(after[:, 0], grid.pad(clipped))
    squares = running(after[:, 1], grid.pad(clipped * clipped))
    before = grid.real(totals[..., :-1])
    seen = grid.real(labels[:, None] + np.arange(grid.most))
    off = clipped - before / np.maximum(seen, 1.0)
    after[:, 0], after[:, 1] = totals[..., -1], squares[..., -1]
    after[:, 2] = running(after[:, 2], grid.pad(off * off))[..., -1]
    after[:, 3] = running(after[:, 3], grid.pad(clipped != d))[..., -1]
    doubt = grid.real(squares[..., :-1]) + CAUTION
    stakes = np.minimum(np.abs(before) / doubt, MAX_STAKE)
    gains = logs(1.0 + stakes * np.where(before < 0.0, -clipped, clipped))
    sides = np.stack([np.where(before > 0.0, gains, 0.0), np.where(before < 0.0, gains, 0.0)], 1)
    paths = running(after[:, WEALTH], grid.pad(sides))  # (b, 2, u, most + 1)
    after[:, WEALTH] = paths[..., -1]
    highest = np.maximum(after[:, HIGHEST], peak(paths))
    after[:, HIGHEST] = highest
    reached = after[:, REACHED]
    new = (highest >= PROVEN) & (reached == 0.0)
    if new.any():
        first = np.argmax(paths[new] >= PROVEN, axis=-1)
        reached[new] = np.broadcast_to(labels, new.shape)[new] + first
        after[:, REACHED] = reached
    return after, grid.real(paths[:, 0, :, 1:])


class Wealth(NamedTuple):
    """log W of one game in nats, its highest value, and the labels when it reached 20 : 1.

    `reached` is 0 if it never did; for several streams together it is an upper bound.
    """

    log_e: float
    highest: float
    reached: int

    @property
    def proven(self) -> bool:
        """Whether 20 : 1 was ever reached."""
        return self.highest >= PROVEN

    def figures(self) -> dict[str, float | int | None]:
        """Return present and highest log W in nats, and the labels until 20 : 1."""
        return {
            "log_e": self.log_e,
            "highest_log_e": self.highest,
            "labels_to_proof": self.reached or None,
        }


@dataclass(slots=True)
class Bet:
    """Both games on one difference, and the band of its mean; `state` is a `BET`."""

    labels: int = 0
    state: BetState = (0.0,) * len(BET)

    def add(self, d: float) -> None:
        """Play one label with difference `d`, positive if the model did better."""
        self.state = play(self.labels, d, *self.state)
        self.labels += 1

    @property
    def total(self) -> float:
        """The sum of the differences, clipped to [-1, 1]."""
        return self.state[0]

    @property
    def spread(self) -> float:
        """The sum of (difference - mean of those before it)^2."""
        return self.state[2]

    @property
    def cut(self) -> int:
        """Labels whose difference was outside [-1, 1]."""
        return int(self.state[3])

    @property
    def better(self) -> Wealth:
        """The game that the model is better."""
        return Wealth(self.state[4], self.state[5], int(self.state[6]))

    @property
    def worse(self) -> Wealth:
        """The game that the model is worse."""
        return Wealth(self.state[7], self.state[8], int(self.state[9]))

    def mean(self) -> float | None:
        """Return the mean of the clipped differences; None without labels."""
        return self.total / self.labels if self.labels else None

    def interval(self) -> tuple[float, float] | None:
        """Return the bounds of the expected mean, at all label counts together with 95 %."""
        if not self.labels:
            return None
        # The bound is for values in [0, 1], such as (d + 1) / 2: a quarter of the spread.
        half = 2.0 * stitched(self.spread / 4.0, ALPHA / 2.0) / self.labels
        mean = self.total / self.labels
        return max(mean - half, -1.0), min(mean + half, 1.0)

    def figures(self) -> dict[str, Any]:
        """Return the figures of both games."""
        return {"better": self.better.figures(), "worse": self.worse.figures()}

    def difference(self) -> dict[str, Any]:
        """Return the mean log-loss difference in nats, its band, and how many were clipped."""
        return {"difference": self.mean(), "band": self.interval(), "cut": self.cut}


def together(labels: Float64s, states: Float64s) -> Bet:
    """Return the bet of k streams together: the mean of their capitals, and pooled sums.

    labels: of each stream (k,). states: their `BET` (k, 10). Streams without labels do not count.
    """
    states, labels = states[labels > 0.0], labels[labels > 0.0]
    if len(states) < 2:
        return Bet(int(labels[0]), tuple(states[0].tolist())) if len(states) else Bet()
    count, state = int(labels.sum()), np.add.accumulate(states)[-1]
    for wealth, highest, reached in zip(WEALTH, HIGHEST, REACHED, strict=True):
        state[wealth] = _log_mean(states[:, wealth].tolist())
        state[highest] = max(state[wealth], states[:, highest].max() - log(len(states)))
        state[reached] = count if state[highest] >= PROVEN else 0.0
    return Bet(count, tuple(state.tolist()))


def _log_mean(values: list[float]) -> float:
    """Return the logarithm of the mean of e^value."""
    top = max(values)
    return top + log(math.fsum(math.exp(value - top) for value in values) / len(values))


class Evidence(NamedTuple):
    """The model against a coin, the base rate and the last label."""

    coin: Bet
    base: Bet
    last: Bet

    def log_e(self) -> tuple[float, float, float]:
        """Return log W in nats against coin, base rate and last label."""
        return self.coin.better.log_e, self.base.better.log_e, self.last.better.log_e

    def accuracy_band(self) -> tuple[float, float] | None:
        """Return the band of the accuracy; None without labels."""
        return accuracy_band((self.coin.labels + self.coin.total) / 2.0, self.coin.labels)

    def figures(self) -> dict[str, Any] | None:
        """Return {opponent: figures} for JSON, None without labels; logarithms are in nats."""
        if not self.coin.labels:
            return None
        return {
            "coin": self.coin.figures(),
            "base_rate": self.base.figures() | self.base.difference(),
            "last_label": self.last.figures() | self.last.difference(),
        }


def accuracy_band(correct: float, labels: int) -> tuple[float, float] | None:
    """Return a band of the expected accuracy, valid at all label counts together with 95 %.

    Half its width is .061, .015 and .005 after 10^3, 10^4 and 10^5 labels.
    """
    if not labels:
        return None
    time = labels / 4.0 + ACCURACY_RHO
    width = math.sqrt(time * (math.log(time / ACCURACY_RHO) + 2.0 * math.log(1.0 / ALPHA)))
    mean = correct / labels
    return max(mean - width / labels, 0.0), min(mean + width / labels, 1.0)


def window_half_width(labels: int, looks: int) -> float:
    """Return half the width of the band of an accuracy over the last `labels` labels.

    looks: the number of windows so far, one for each label. The bands of all windows hold together
    with 95 %: each is Hoeffding's bound, with a share 1 / look^1.4 of the probability of a miss.
    """
    level = math.log(2.0 * ZETA_S / ALPHA) + STITCH_S * math.log(looks)
    return math.sqrt(level / (2.0 * labels))


def stitched(spread: float, alpha: float, scale: float = 1.0, start: float = 1.0) -> float:
    """Return a bound that a sum of centred values exceeds at some time with probability `alpha`.

    spread: sum of squares of the values less their predictions. scale: their range. start: the
    spread from which the boundary grows. It is Theorem 1 of Howard et al. 2021 with eta = 2 and
    s = 1.4, which their closed form with 1.7, 3.8, 3.4 and 13 rounds up.
    """
    spread = max(spread, start)
    level = STITCH_S * math.log(math.log(2.0 * spread / start))
    level += math.log(ZETA_S / (alpha * math.log(2.0) ** STITCH_S))
    shift = STITCH_SHIFT * scale * level
    return math.sqrt(STITCH_SCALE**2 * spread * level + shift * shift) + shift


def labels_needed(accuracy: float) -> int:
    """Return the labels that a plain test of a true accuracy against a coin needs.

    One-sided at 5 %, with a power of 80 %, at a single look. Raises ValueError for 1/2 and less.
    """
    if not 0.5 < accuracy <= 1.0:
        raise ValueError(f"an accuracy of {accuracy} is not above 1/2")
    normal = NormalDist()
    spread = 0.5 * normal.inv_cdf(1.0 - ALPHA)
    spread += math.sqrt(accuracy * (1.0 - accuracy)) * normal.inv_cdf(0.8)
    return math.ceil((spread / (accuracy - 0.5)) ** 2)
