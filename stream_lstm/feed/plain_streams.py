"""Two graded streams that need no memory: nothing to learn, and the last value alone.

S0 moves like a price's returns, with quiet and wild stretches and fat tails, but its sign is a
coin: whoever reports skill on it has a leak. S1 is the easiest thing that can be learnt.

Source: Bollerslev, "Generalized autoregressive conditional heteroskedasticity", 1986.
"""

from __future__ import annotations

import math

import numpy as np

from .synthetic import Floats, normal_cdf


class Garch:
    """S0: x_t = sqrt(h_t) e_t, h_{t+1} = omega + alpha x_t^2 + beta h_t, e_t Student t.

    The shocks have six degrees of freedom and unit variance; h starts at its mean.
    """

    name = "s0-garch"
    columns = ("x",)

    omega, alpha, beta = 0.05, 0.08, 0.90
    freedom = 6

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._variance = self.omega / (1.0 - self.alpha - self.beta)

    def block(self, n: int) -> Floats:
        """Return the next `n` elements, float64 (n, 1)."""
        scale = math.sqrt((self.freedom - 2) / self.freedom)  # to unit variance
        shocks = scale * self._random.standard_t(self.freedom, n)
        values, variance = np.empty(n), self._variance
        for k, shock in enumerate(shocks.tolist()):
            square = variance * shock * shock
            values[k] = math.sqrt(variance) * shock
            variance = self.omega + self.alpha * square + self.beta * variance
        self._variance = variance
        return values[:, None]

    def best(self, values: Floats) -> Floats:
        """Return 1/2 everywhere, float64 (n,): the shocks are symmetric and independent."""
        return np.full(len(values), 0.5)


class Autoregression:
    """S1: x_{t+1} = 0.6 x_t + N(0, 1), in its stationary law from the start."""

    name = "s1-ar"
    columns = ("x",)

    phi = 0.6

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        # the first step then gives the stationary law, which every other step keeps
        self._last = float(self._random.standard_normal()) / math.sqrt(1.0 - self.phi**2)

    def block(self, n: int) -> Floats:
        """Return the next `n` elements, float64 (n, 1)."""
        values, last = np.empty(n), self._last
        for k, shock in enumerate(self._random.standard_normal(n).tolist()):
            values[k] = last = self.phi * last + shock
        self._last = last
        return values[:, None]

    def best(self, values: Floats) -> Floats:
        """Return P(N(0.6 x_k, 1) > 0), float64 (n,)."""
        return normal_cdf(self.phi * values[:, 0])
