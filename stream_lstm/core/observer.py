"""What may look at the stages of a session while it works, and change nothing.

A session that is observed makes and steps all elements one way, in the same order for any cut into
blocks: tick by tick or chunk by chunk, without columns of many streams and without strides.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class Observer(Protocol):
    """Observes each stage; it may keep every array except those of `took`."""

    def took(self, t_ns: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> None:
        """Take ticks, t_ns (m,) and values (m, C), before anything is made of them."""

    def made(self, elements: Floats) -> None:
        """Take elements (m, F) that were made of ticks."""

    def refused(self, index: int, reason: str) -> None:
        """Take the tick at `index` of those just taken, of which no element was made."""

    def stepped(self, before: int, weights: Any, carry: Floats, xs: Floats, rows: Floats) -> None:
        """Take a step from `carry` over elements before + 1 and on, xs (m, F), rows (m, R)."""

    def windowed(self, n: int, p: float) -> None:
        """Take the probability of the window that ends with element n."""

    def updated(self, n: int, given: tuple[Any, ...], weights: Any, info: Floats) -> None:
        """Take what an update after element n was given, and made of it."""
