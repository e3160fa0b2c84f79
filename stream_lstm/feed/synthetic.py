"""Seeded series whose best possible forecast is known exactly.

Against real data a score says little: nobody knows how much there was to know. Here the series
is drawn from a model that is written down, and the filter that knows the model gives the exact
probability. No forecaster does better on average, and none may use more than it does: values up
to and with element n, for the sign of element n + 1.

Sources: Kalman, "A New Approach to Linear Filtering and Prediction Problems", 1960; Anderson and
Moore, "Optimal Filtering", 1979.
"""

from __future__ import annotations

import math
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]


class Source(Protocol):
    """A seeded series with a known best.

    Two sources of one kind, seed and setting give the same values, however they are cut into
    blocks. The first column is the one whose sign is asked for.
    """

    @property
    def name(self) -> str:
        """What the series is called, fit for a stream's name."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the values, C of them."""
        ...

    def block(self, n: int) -> Floats:
        """Return the next `n` elements, float64 (n, C)."""
        ...

    def best(self, values: Floats) -> Floats:
        """Return P(first column of element k + 2 > 0 | elements 1 .. k + 1), float64 (n,).

        values: float64 (n, C), a series of this kind from its first element on. Entry k uses
        rows 0 .. k and nothing after them.
        """
        ...


class HiddenLevel:
    """A level that wanders unseen, and a noisy look at it: x_t = m_t + e_t.

    m_t = phi m_{t-1} + sqrt(1 - phi^2) w_t has unit variance from the start, w_t is N(0, 1) and
    e_t is N(0, noise^2), all independent. One look says little about the level; many looks say
    more, with older ones counting less. So whoever carries a state beats whoever repeats the
    last sign. With phi = 0.97 and noise = 1, repeating is right for 66.1 % in the long run and
    the best forecast for 71.1 %.
    """

    name = "hidden-level"
    columns = ("x",)

    def __init__(self, seed: int, *, phi: float = 0.97, noise: float = 1.0) -> None:
        if not -1 < phi < 1 or not noise > 0:
            raise ValueError(f"phi={phi} must lie within -1 and 1, and noise={noise} above 0")
        self.phi = phi
        self.noise = noise
        self._drift = math.sqrt(1.0 - phi * phi)
        self._random = np.random.default_rng(seed)
        self._level = float(self._random.standard_normal())

    def block(self, n: int) -> Floats:
        """Return the next `n` elements, float64 (n, 1)."""
        shocks = self._random.standard_normal((n, 2))
        levels, level = np.empty(n), self._level
        for k, shock in enumerate((self._drift * shocks[:, 0]).tolist()):
            # the first level was drawn from the stationary law, which one more step keeps
            levels[k] = level = self.phi * level + shock
        self._level = level
        return (levels + self.noise * shocks[:, 1])[:, None]

    def best(self, values: Floats) -> Floats:
        """Return the Kalman filter's P(x_{k+1} > 0 | x_1 .. x_k), float64 (n,)."""
        observed, drift = self.noise**2, self._drift**2
        scores, mean, variance = np.empty(len(values)), 0.0, 1.0
        for k, x in enumerate(values[:, 0].tolist()):
            gain = variance / (variance + observed)
            mean = self.phi * (mean + gain * (x - mean))
            variance = self.phi**2 * (1.0 - gain) * variance + drift
            scores[k] = mean / math.sqrt(variance + observed)
        return normal_cdf(scores)


def normal_cdf(z: Floats) -> Floats:
    """Return P(N(0, 1) <= z), elementwise."""
    return np.array([0.5 * math.erfc(-v / math.sqrt(2.0)) for v in z.tolist()])
