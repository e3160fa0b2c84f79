"""Other futures: what might have come in the place of the ticks that did come.

Each takes a seeded generator, the times int64 (m,) and the values float64 (m, C) of the ticks that
came, and returns others of the same number. None looks at what was before, which stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Times: TypeAlias = npt.NDArray[np.int64]
Values: TypeAlias = npt.NDArray[np.float64]
Future: TypeAlias = Callable[[np.random.Generator, Times, Values], tuple[Times, Values]]

SPREAD = 0.3
"""Standard deviation of the logarithm of the factor between a value and its other."""


def other_values(random: np.random.Generator, t_ns: Times, values: Values) -> tuple[Times, Values]:
    """Return values of the same order and sign, so that a price stays one, at later times."""
    late = np.cumsum(random.integers(1, 10**9, len(t_ns)))
    return t_ns + late, values * random.lognormal(0.0, SPREAD, values.shape)


def shuffled(random: np.random.Generator, t_ns: Times, values: Values) -> tuple[Times, Values]:
    """Return the same ticks in another order."""
    order = random.permutation(len(t_ns))
    return t_ns[order], values[order]


def scaled(random: np.random.Generator, t_ns: Times, values: Values) -> tuple[Times, Values]:
    """Return values a thousand times as large, all of them or in turns of three."""
    steps = 1000.0 if random.integers(2) else 1000.0 ** (1 + np.arange(len(values)) % 3)[:, None]
    return t_ns, values * steps


def turned(random: np.random.Generator, t_ns: Times, values: Values) -> tuple[Times, Values]:
    """Return values whose steps go the other way."""
    return t_ns, values[:1] * random.uniform(1.0, 2.0) - (values - values[:1])


def not_finite(random: np.random.Generator, t_ns: Times, values: Values) -> tuple[Times, Values]:
    """Return values of which some, and the first, are no numbers."""
    out = values.copy()
    bad = random.random(values.shape) < 0.3
    bad[0] = True
    out[bad] = random.choice([np.nan, np.inf, -np.inf], int(bad.sum()))
    return t_ns, out


FUTURES: Mapping[str, Future] = MappingProxyType(
    {
        "other values": other_values,
        "shuffled": shuffled,
        "scaled": scaled,
        "turned": turned,
        "not finite": not_finite,
    }
)
"""By name; beside them stand the ticks that came, and none at all."""
