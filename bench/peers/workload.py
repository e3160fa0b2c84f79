"""The network that all subjects run, and what ours makes of it.

`kernel` is (34, 4H), rows x, h and 1, gates i, f, g, o; `head` is (H + 1,), its bias last.
`xs` (CHECKED, 1) are elements and `p` (CHECKED,) ours after each of them, from a zero state.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HIDDEN, SEED = 32, 7

TAPES = (10, 50, 100)
"""Lengths K of the tapes of one update."""

CHECKED = 200
"""Elements over which a subject's p are compared with ours before it is timed."""

TOLERANCE = 1e-5

FILE = "given.npz"


class Workload(NamedTuple):
    """See above; all arrays are float32."""

    kernel: np.ndarray
    head: np.ndarray
    xs: np.ndarray
    p: np.ndarray

    def save(self, folder: Path) -> None:
        """Write it for subjects in other processes."""
        np.savez(folder / FILE, **self._asdict())

    @classmethod
    def load(cls, folder: Path) -> Workload:
        """Read what `save` wrote."""
        with np.load(folder / FILE) as arrays:
            return cls(**{name: arrays[name] for name in cls._fields})


def series(count: int) -> np.ndarray:
    """Return elements (count, 1); fewer of them are the beginning of more."""
    return np.random.default_rng(SEED).normal(size=(count, 1)).astype(np.float32)


def wrong(p: Any, expected: np.ndarray) -> str:
    """Return what is wrong with the p (n,) of a subject, "" where they are as expected."""
    far = np.abs(np.asarray(p, np.float64) - expected).max()
    return "" if far <= TOLERANCE else f"wrong: p is {far:.2g} from ours, not timed"
