"""Is the model better than a plain forecaster? Answers that stay valid however often one looks.

**Bets.** Let d be, label by label, how much better the model did than the other, in [-1, 1]. Who
believes that the model is no better, so that the mean of d given the past is at most 0, must
hold the following game to be fair or worse: start with a capital W of 1, and before each label
stake a part lambda of it, known before that label and never negative,

```
W <- W (1 + lambda d)         lambda = clip(sum of past d / (sum of past d^2 + 100), 0, 1/2)
```

W is then an e-process. By Ville's inequality the chance that it EVER reaches 20 is at most 1/20,
so a look after every label costs nothing, and what was once reached stays proven: the highest W
is kept beside the present one. The same game on -d asks whether the model is worse. Against a
coin d is 1 for a right call of the label and -1 for a wrong one; against a forecaster it is the
difference of the log losses in nats, cut to [-1, 1]. "W : 1" is the evidence; log W is in nats.

What a won bet refutes is that the model was at no label expected to do better. One that is better
for a while and worse for another can win both; the band of the mean says how it comes out on the
whole. "The past" is all that is known when the label before this one came. Where that is later
than the prediction, with a horizon above the stride or labels from outside that are late, the
belief refuted is about what was to be expected by then, and runs of like labels weigh as evidence
that they were not when the predictions were made: there the evidence is too strong.

**Bands.** They hold at all label counts at once with 95 %. That of the accuracy is Robbins' normal
mixture over a variance of at most 1/4 a label; that of a mean difference is the empirical
Bernstein bound, whose width follows the spread of the differences. What they hold is the mean,
over the labels so far, of what was to be expected given the past: no label need be like another.

**Several streams.** The mean of e-processes is an e-process whatever depends on what, since means
add up; the weights must not be chosen by success, so each stream with a label counts alike. The
highest mean is not known from the streams' own records, but it was at least the highest W of any
of K streams divided by K, when that was reached, and it is at least the present mean: the larger
of the two is kept. Bands pool their sums: over the labels of all streams, in the order they came,
these are sums of the same martingales, and what was expected of a label before it came may be
anything then known, so also the mean of its own stream.

Sources: Ville, "Etude critique de la notion de collectif", 1939; Robbins, "Statistical methods
related to the law of the iterated logarithm", 1970; Howard, Ramdas, McAuliffe and Sekhon,
"Time-uniform, nonparametric, nonasymptotic confidence sequences", 2021; Choe and Ramdas,
"Comparing sequential forecasters", 2023; Waudby-Smith and Ramdas, "Estimating means of bounded
random variables by betting", 2024; Vovk and Wang, "E-values", 2021, for means of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from math import log
from statistics import NormalDist
from typing import Any

import msgspec
import numpy as np

from .tally import Bools, Doubles, logs, running

ALPHA = 0.05
"""The chance of a false alarm that is put up with: of one bet, in all time, and of one band."""

PROVEN = math.log(1.0 / ALPHA)
"""log W, in nats, from which on a bet counts as won: 20 : 1."""

CAUTION = 100.0
"""Labels' worth of doubt in a stake. Smaller stakes too much early, larger is slow to rise."""

MAX_STAKE = 0.5
"""At a d of -1 half of the capital is left: no single label can end a game."""

ACCURACY_RHO = 320.0
"""Intrinsic time at which the band of the accuracy is tightest for its age: some 1000 labels."""

STITCH_S = 1.4
STITCH_SCALE = (2**0.25 + 2**-0.25) / math.sqrt(2)
STITCH_SHIFT = (math.sqrt(2) + 1) / 2
ZETA_S = 3.105547277674938
"""Of the stitched boundary, with eta = 2: the exponent s, k1, k2 and zeta(s)."""


@dataclass(slots=True)
class Wealth:
    """log W of one bet in nats, the highest it has been, and the labels when it reached 20 : 1.

    `reached` is 0 where it never did; of several streams together it is an upper bound.
    """

    log_e: float = 0.0
    highest: float = 0.0
    reached: int = 0

    def follow(self, path: Doubles, labels: int) -> None:
        """Go through log W (n + 1,), of which the first is the present one, after `labels`."""
        self.log_e = float(path[-1])
        self.highest = max(self.highest, float(path.max()))
        if self.proven and not self.reached:
            self.reached = labels + int(np.argmax(path >= PROVEN))

    @property
    def proven(self) -> bool:
        """Tell whether 20 : 1 was ever reached."""
        return self.highest >= PROVEN

    def average(self, weight: int, other: Wealth, other_weight: int, labels: int) -> None:
        """Become the mean with that of other streams; see the head of the file."""
        if not weight:
            self.log_e, self.highest, self.reached = other.log_e, other.highest, other.reached
            return
        own = math.log(weight / (weight + other_weight))
        others = math.log(other_weight / (weight + other_weight))
        self.log_e = _log_add(self.log_e + own, other.log_e + others)
        self.highest = max(self.log_e, self.highest + own, other.highest + others)
        self.reached = labels if self.proven else 0

    def figures(self) -> dict[str, float | int | None]:
        """Return the present and the highest log W in nats, and the labels that 20 : 1 took."""
        return {
            "log_e": self.log_e,
            "highest_log_e": self.highest,
            "labels_to_proof": self.reached or None,
        }


@dataclass(slots=True)
class Bet:
    """Both games on one difference: that the model is better, and that it is worse.

    `streams` counts the streams with a label that are in it, after `merge`.
    """

    labels: int = 0
    total: float = 0.0
    squares: float = 0.0
    better: Wealth = field(default_factory=Wealth)
    worse: Wealth = field(default_factory=Wealth)
    streams: int = 1

    def add(self, d: float) -> None:
        """Play one label with difference `d` in [-1, 1], positive where the model did better."""
        self.labels = labels = self.labels + 1
        total, squares = self.total, self.squares
        self.total, self.squares = total + d, squares + d * d
        if total > 0.0:
            wealth = self.better
        elif total < 0.0:
            wealth, total, d = self.worse, -total, -d
        else:
            return  # at most one of the two games has a stake, and here none
        stake = total / (squares + CAUTION)
        log_e = wealth.log_e + log(1.0 + (stake if stake < MAX_STAKE else MAX_STAKE) * d)
        wealth.log_e = log_e
        if log_e > wealth.highest:
            wealth.highest = log_e
            if log_e >= PROVEN and not wealth.reached:
                wealth.reached = labels

    def merge(self, other: Bet) -> None:
        """Become the mean with the bet of other streams; what comes of it takes no more labels."""
        weight = self.streams if self.labels else 0
        other_weight = other.streams if other.labels else 0
        if not other_weight:
            return
        self.labels += other.labels
        self.total += other.total
        self.squares += other.squares
        self.better.average(weight, other.better, other_weight, self.labels)
        self.worse.average(weight, other.worse, other_weight, self.labels)
        self.streams = weight + other_weight

    def figures(self) -> dict[str, Any]:
        """Return both games' figures."""
        return {"better": self.better.figures(), "worse": self.worse.figures()}


class DifferenceBand(msgspec.Struct):
    """A band for the mean of differences in [-1, 1]; those outside are cut and counted.

    `spread` sums squares of what each differed from the mean of those before it.
    """

    labels: int = 0
    total: float = 0.0
    spread: float = 0.0
    cut: int = 0

    def add(self, d: float) -> None:
        """Take one difference, positive where the model did better."""
        if not -1.0 <= d <= 1.0:
            d = 1.0 if d > 0.0 else -1.0
            self.cut += 1
        labels, total = self.labels, self.total
        off = d - total / labels if labels else d
        self.spread += off * off
        self.total = total + d
        self.labels = labels + 1

    def merge(self, other: DifferenceBand) -> None:
        """Add the sums of other streams."""
        self.labels += other.labels
        self.total += other.total
        self.spread += other.spread
        self.cut += other.cut

    def mean(self) -> float | None:
        """Return the mean of the differences, cut to [-1, 1]; None without any."""
        return self.total / self.labels if self.labels else None

    def interval(self) -> tuple[float, float] | None:
        """Return where the expected mean lies, at all label counts at once with 95 %."""
        if not self.labels:
            return None
        # The bound is for values in [0, 1], which (d + 1) / 2 are: a quarter of the spread.
        half = 2.0 * stitched(self.spread / 4.0, ALPHA / 2.0) / self.labels
        mean = self.total / self.labels
        return max(mean - half, -1.0), min(mean + half, 1.0)


@dataclass(slots=True)
class Evidence:
    """The model against a coin, the base rate and the last label, over one stream's labels.

    Each `spread` and `cut` belongs with the labels and the total of the bet to a
    `DifferenceBand`, whose sums these are.
    """

    coin: Bet = field(default_factory=Bet)
    base: Bet = field(default_factory=Bet)
    last: Bet = field(default_factory=Bet)
    base_spread: float = 0.0
    last_spread: float = 0.0
    base_cut: int = 0
    last_cut: int = 0

    def add(self, correct: bool, loss: float, base_loss: float, last_loss: float) -> None:
        """Take one label: whether the call was right, and the three log losses in nats."""
        coin, base, last = self.coin, self.base, self.last
        d, e = base_loss - loss, last_loss - loss
        if not -1.0 <= d <= 1.0:
            d = cut(d)
            self.base_cut += 1
        if not -1.0 <= e <= 1.0:
            e = cut(e)
            self.last_cut += 1
        labels = coin.labels
        off = d - base.total / labels if labels else d
        self.base_spread += off * off
        off = e - last.total / labels if labels else e
        self.last_spread += off * off
        coin.add(1.0 if correct else -1.0)
        base.add(d)
        last.add(e)

    def extend(self, correct: Bools, losses: Doubles) -> Doubles:
        """Take n labels, losses (3, n), as `add` would one by one; return each `log_e` (n, 3).

        All sums go from label to label, and the logarithms are those of the C library, so that
        every bit is the same.
        """
        bets = self.coin, self.base, self.last
        ds = np.concatenate([np.where(correct, 1.0, -1.0)[None], losses[1:] - losses[0]])
        cuts = np.count_nonzero(np.abs(ds) > 1.0, axis=1)
        ds = np.clip(ds, -1.0, 1.0)
        totals = running([bet.total for bet in bets], ds)
        squares = running([bet.squares for bet in bets], ds * ds)
        before = totals[:, :-1]
        labels = np.arange(self.coin.labels, self.coin.labels + len(correct))
        off = ds[1:] - before[1:] / np.maximum(labels, 1)
        spreads = running([self.base_spread, self.last_spread], off * off)
        self.base_spread, self.last_spread = spreads[:, -1].tolist()
        self.base_cut += int(cuts[1])
        self.last_cut += int(cuts[2])
        stakes = np.minimum(np.abs(before) / (squares[:, :-1] + CAUTION), MAX_STAKE)
        gains = logs(1.0 + stakes * np.where(before < 0.0, -ds, ds))
        better = running([bet.better.log_e for bet in bets], np.where(before > 0.0, gains, 0.0))
        worse = running([bet.worse.log_e for bet in bets], np.where(before < 0.0, gains, 0.0))
        for k, bet in enumerate(bets):
            bet.better.follow(better[k], bet.labels)
            bet.worse.follow(worse[k], bet.labels)
            bet.labels += len(correct)
            bet.total, bet.squares = float(totals[k, -1]), float(squares[k, -1])
        return better[:, 1:].T

    def merge(self, other: Evidence) -> None:
        """Add what other streams have to say."""
        self.coin.merge(other.coin)
        self.base.merge(other.base)
        self.last.merge(other.last)
        self.base_spread += other.base_spread
        self.last_spread += other.last_spread
        self.base_cut += other.base_cut
        self.last_cut += other.last_cut

    @property
    def base_band(self) -> DifferenceBand:
        """The band of how much better than the base rate the model did."""
        base = self.base
        return DifferenceBand(base.labels, base.total, self.base_spread, self.base_cut)

    @property
    def last_band(self) -> DifferenceBand:
        """The band of how much better than the last label the model did."""
        last = self.last
        return DifferenceBand(last.labels, last.total, self.last_spread, self.last_cut)

    def log_e(self) -> tuple[float, float, float]:
        """Return log W, in nats, of being better than coin, base rate and last label."""
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
            "base_rate": self.base.figures() | _difference(self.base_band),
            "last_label": self.last.figures() | _difference(self.last_band),
        }


def cut(d: float) -> float:
    """Return `d` cut to [-1, 1]."""
    return d if -1.0 <= d <= 1.0 else 1.0 if d > 0.0 else -1.0


def accuracy_band(correct: float, labels: int) -> tuple[float, float] | None:
    """Return where the expected accuracy lies, at all label counts at once with 95 %.

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

    looks: how many windows there have been, this one included, one for each label. The bands of
    all windows hold at once with 95 %: each is Hoeffding's bound, the chance of a miss being
    shared out among them as 1 / look^1.4.
    """
    level = math.log(2.0 * ZETA_S / ALPHA) + STITCH_S * math.log(looks)
    return math.sqrt(level / (2.0 * labels))


def stitched(spread: float, alpha: float, scale: float = 1.0, start: float = 1.0) -> float:
    """Return what a sum of values, each less what was expected of it, ever exceeds by `alpha`.

    spread: sum of squares of values less what was guessed of them before; scale: their range;
    start: the spread from which on the boundary grows. It is Theorem 1 of Howard et al. 2021 with
    eta = 2 and s = 1.4, of which their closed form with 1.7, 3.8, 3.4 and 13 rounds up.
    """
    spread = max(spread, start)
    level = STITCH_S * math.log(math.log(2.0 * spread / start))
    level += math.log(ZETA_S / (alpha * math.log(2.0) ** STITCH_S))
    shift = STITCH_SHIFT * scale * level
    return math.sqrt(STITCH_SCALE**2 * spread * level + shift * shift) + shift


def labels_needed(accuracy: float) -> int:
    """Return the labels after which a true accuracy shows against a coin, looked at once.

    One-sided at 5 %, found with a chance of 80 %. Raises ValueError for 1/2 and less.
    """
    if not 0.5 < accuracy <= 1.0:
        raise ValueError(f"an accuracy of {accuracy} is not above a coin's")
    normal = NormalDist()
    spread = 0.5 * normal.inv_cdf(1.0 - ALPHA)
    spread += math.sqrt(accuracy * (1.0 - accuracy)) * normal.inv_cdf(0.8)
    return math.ceil((spread / (accuracy - 0.5)) ** 2)


def _difference(band: DifferenceBand) -> dict[str, Any]:
    """Return the mean log-loss difference in nats, its band, and how many were cut."""
    return {"difference": band.mean(), "band": band.interval(), "cut": band.cut}


def _log_add(a: float, b: float) -> float:
    """Return log(e^a + e^b)."""
    high, low = max(a, b), min(a, b)
    return high + math.log1p(math.exp(low - high))
