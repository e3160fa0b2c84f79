"""Time in blocks of ten ticks, and the chance that a graded stream is drawn from.

Ticks are counted from 0, so that tick t is element n = t + 1 and row t of the values. A beat is
a tick 10k. The prediction after element n = 10k is about element 10k + 1, which is tick 10k: so
with the defaults (W = 100, S = 10, h = 1) the beats from tick 100 on, and nothing else, are what
is predicted. The other nine ticks of a block are fillers, small unless a stream says otherwise.

Every tick takes one normal and two uniform numbers, whether it needs them or not, from one
generator each. That is what makes the values independent of how they are cut into blocks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .synthetic import Floats

PERIOD = 10
"""Ticks from beat to beat: the default stride."""

FILLER = 0.1
"""Standard deviation of the ticks that say nothing."""


class Draw(NamedTuple):
    """The chance of consecutive ticks."""

    tick: npt.NDArray[np.int64]  # (n,)
    normal: Floats  # (n,), N(0, 1)
    uniform: Floats  # (n, 2), in [0, 1)

    @property
    def on_beat(self) -> npt.NDArray[np.bool_]:
        """Which ticks are beats, (n,)."""
        return np.equal(self.tick % PERIOD, 0)

    def with_signs(self, signs: Floats) -> Floats:
        """Return fillers, and at the beats |N(0, 1)| with these signs; float64 (n,)."""
        return np.where(self.on_beat, signs * np.abs(self.normal), FILLER * self.normal)


class Beats:
    """Draws the chance of tick after tick, from a seed."""

    def __init__(self, seed: int) -> None:
        normal, uniform = np.random.SeedSequence(seed).spawn(2)
        self._normal = np.random.default_rng(normal)
        self._uniform = np.random.default_rng(uniform)
        self._tick = 0

    def draw(self, n: int) -> Draw:
        """Return the chance of the next `n` ticks."""
        ticks = np.arange(self._tick, self._tick + n)
        self._tick += n
        return Draw(ticks, self._normal.standard_normal(n), self._uniform.random((n, 2)))


def signs_where(positive: npt.NDArray[np.bool_]) -> Floats:
    """Return +1 where `positive`, else -1."""
    return np.where(positive, 1.0, -1.0)
