"""Graded streams with a hidden regime m = +-1 that rarely flips.

S2 and S3 flip at beats and show the regime through one noisy sign a block; S5 flips at any tick
and shows it through a faint slope. One look says next to nothing: the best forecast weighs
hundreds to thousands of them, far beyond a window of 100.

The best forecast is the filter of a hidden Markov chain with two states. It carries one number,
the belief P(m = +1 | all seen): multiply the odds by the likelihood ratio of what was seen, then
let the regime flip. At ticks that are no beats, S2 and S3 are symmetric about zero whatever came
before, so that the exact answer there is 1/2.

Source: Rabiner, "A tutorial on hidden Markov models", 1989, the forward recursion.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .beats import PERIOD, Beats, Draw, signs_where
from .synthetic import Floats, normal_cdf

RIGHT = 0.65
"""How often the sign at a beat shows the regime as it is."""


class Regime:
    """The hidden m, a coin at tick 0, flipping with probability `flip` where it may."""

    def __init__(self, flip: float) -> None:
        self._flip = flip
        self._m = 1.0

    def walk(self, draw: Draw, may_flip: npt.NDArray[np.bool_]) -> Floats:
        """Return m at each tick, float64 (n,) of -1 and +1; the first uniforms decide."""
        chance = np.where(may_flip, self._flip, 0.0)
        chance[draw.tick == 0] = 0.5
        turns = np.cumprod(signs_where(draw.uniform[:, 0] >= chance), dtype=np.float64)
        m: Floats = self._m * turns
        self._m = float(m[-1]) if len(m) else self._m
        return m


class Belief:
    """P(m = +1) for the next look, given all looks so far; `up` is that probability."""

    def __init__(self, flip: float) -> None:
        self.up = 0.5
        self._flip = flip

    def see(self, ratio: float) -> None:
        """Take a look: how many times likelier it was under m = +1 than under m = -1."""
        up = self.up * ratio / (self.up * ratio + 1.0 - self.up)
        self.up = up + self._flip * (1.0 - 2.0 * up)

    def see_sign(self, positive: bool) -> None:
        """Take a look at a sign that is m with probability RIGHT."""
        odds = RIGHT / (1.0 - RIGHT)
        self.see(odds if positive else 1.0 / odds)

    def of_sign(self) -> float:
        """Return the probability that the next such sign is positive."""
        return self.up * RIGHT + (1.0 - self.up) * (1.0 - RIGHT)


class RegimeSign:
    """S2: the sign at a beat is m with probability 0.65; m flips at one beat in a thousand."""

    name = "s2-regime"
    columns = ("x",)

    flip = 1 / 1000

    def __init__(self, seed: int) -> None:
        self._beats = Beats(seed)
        self._regime = Regime(self.flip)

    def block(self, n: int) -> Floats:
        """Return the next `n` elements, float64 (n, 1)."""
        draw = self._beats.draw(n)
        m = self._regime.walk(draw, draw.on_beat)
        return draw.with_signs(m * signs_where(draw.uniform[:, 1] < RIGHT))[:, None]

    def best(self, values: Floats) -> Floats:
        """Return the filter's P(x_{k+1} > 0 | x_0 .. x_k), float64 (n,)."""
        p, belief = np.full(len(values), 0.5), Belief(self.flip)
        for beat, x in zip(_beats(values), values[::PERIOD, 0].tolist(), strict=True):
            belief.see_sign(x > 0)
            p[beat + PERIOD - 1 : beat + PERIOD] = belief.of_sign()
        return p


class RegimeProduct:
    """S3: as S2, but the sign at a beat is m times the sign one tick before, which is N(0, 1).

    By itself either sign is a coin: the two must be multiplied. Before tick 0 the sign counts as
    positive.
    """

    name = "s3-product"
    columns = ("x",)

    flip = 1 / 1000

    def __init__(self, seed: int) -> None:
        self._beats = Beats(seed)
        self._regime = Regime(self.flip)
        self._last = 1.0

    def block(self, n: int) -> Floats:
        """Return the next `n` elements, float64 (n, 1)."""
        draw = self._beats.draw(n)
        m = self._regime.walk(draw, draw.on_beat)
        before = np.concatenate([[self._last], draw.normal])  # its sign is the value's at tick 9
        self._last = float(before[-1])
        agree = signs_where(draw.uniform[:, 1] < RIGHT)
        values = draw.with_signs(m * agree * signs_where(before[:-1] > 0))
        last = draw.tick % PERIOD == PERIOD - 1
        return np.where(last, draw.normal, values)[:, None]

    def best(self, values: Floats) -> Floats:
        """Return the filter's P(x_{k+1} > 0 | x_0 .. x_k), float64 (n,)."""
        p, belief = np.full(len(values), 0.5), Belief(self.flip)
        positive, before = (values[:, 0] > 0).tolist(), True
        for beat in _beats(values):
            belief.see_sign(positive[beat] == before)
            last = beat + PERIOD - 1
            if last < len(p):
                before = positive[last]
                p[last] = belief.of_sign() if before else 1.0 - belief.of_sign()
        return p


class RegimeSlope:
    """S5: x_{t+1} = 0.1 m x_t + N(0, 1); m flips at one tick in five thousand."""

    name = "s5-slope"
    columns = ("x",)

    flip = 1 / 5000
    slope = 0.1

    def __init__(self, seed: int) -> None:
        self._beats = Beats(seed)
        self._regime = Regime(self.flip)
        self._last = 0.0

    def block(self, n: int) -> Floats:
        """Return the next `n` elements, float64 (n, 1)."""
        draw = self._beats.draw(n)
        slopes = self.slope * self._regime.walk(draw, np.ones(n, np.bool_))
        values, last = np.empty(n), self._last
        for k, (slope, shock) in enumerate(
            zip(slopes.tolist(), draw.normal.tolist(), strict=True)
        ):
            values[k] = last = slope * last + shock
        self._last = last
        return values[:, None]

    def best(self, values: Floats) -> Floats:
        """Return the filter's P(x_{k+1} > 0 | x_0 .. x_k), float64 (n,)."""
        belief, before = Belief(self.flip), 0.0
        up = np.empty(len(values))
        for k, x in enumerate(values[:, 0].tolist()):
            # of N(slope before, 1) to N(-slope before, 1) at x
            belief.see(math.exp(2.0 * self.slope * before * x))
            up[k], before = belief.up, x
        rising = normal_cdf(self.slope * values[:, 0])
        return up * rising + (1.0 - up) * (1.0 - rising)


def _beats(values: Floats) -> range:
    return range(0, len(values), PERIOD)
