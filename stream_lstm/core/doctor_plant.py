"""A known signal planted in the user's own series, to see whether the pipeline learns it.

Everything stays as it is but the signs of the target: they follow a chain that repeats the sign
`horizon` elements back with probability `STAY`. Magnitudes, other features, scaling, network,
learner and settings are the user's, and labels come from where they came from. A target of 0 has
no sign to set: it takes the magnitude of the element before it. A short series is repeated until
it is long enough.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec
import numpy as np

from ..config import Config
from ..events import Ticks
from .doctor_labels import entropy
from .doctor_series import Bools, Doubles, Floats

STAY = 0.8
"""What the best forecast has for an accuracy: far from a coin, and far from certain."""

PLANTED = 2_000
"""Labels of the planted series: enough for every learner that works."""

MOST_PLANTED = 60_000

SHARE = 0.5
"""Of what there is to gain over the base rate, in the last half, from which on it was learned."""


class Planted(NamedTuple):
    """The series and the settings under which the pipeline is to learn it."""

    ticks: Ticks
    labels: Doubles | None  # (m,), in the rows in which a label column has them
    config: Config
    columns: tuple[str, ...]


def plant(elements: Floats, config: Config, *, seed: int = 0) -> Planted | None:
    """Return elements (n, F) with planted signs; None where the target has no magnitude at all.

    Learning is then on.
    """
    stream = config.stream
    horizon = max(stream.horizon, 1)
    count = min(stream.window + horizon + PLANTED * stream.stride, MOST_PLANTED)
    count = max(count, 3 * stream.window)
    values = np.resize(elements, (count, elements.shape[1])).astype(np.float64)
    magnitudes = _filled(np.abs(values[:, 0]))
    if not magnitudes.any():
        return None
    values[:, 0] = magnitudes * _signs(count, horizon, seed)
    names = tuple(f"f{k}" for k in range(elements.shape[1]))
    times = np.arange(count, dtype=np.int64) * 1_000_000_000
    ticks = Ticks("planted", times, values)
    return Planted(ticks, _labels(values[:, 0] > 0, config), _learning(config, names), names)


def _labels(positive: Bools, config: Config) -> Doubles | None:
    """Return a column of labels of planted signs (m,), None where they come from the series."""
    stream = config.stream
    if stream.labels == "series":
        return None
    if not stream.horizon:
        positive = np.roll(positive, -1)  # a prediction is about the element after it all the same
    if stream.threshold is None:
        return positive.astype(np.float64)
    return np.where(positive, stream.threshold + 1.0, stream.threshold - 1.0)


BEST = entropy(STAY)


def _learning(config: Config, names: tuple[str, ...]) -> Config:
    replace = msgspec.structs.replace
    stream = replace(config.stream, features=names)
    bptt = min(config.learning.bptt, config.stream.window)
    learning = replace(config.learning, learn=True, learn_until=0, bptt=bptt)
    scoring = replace(config.scoring, twins=())
    return replace(config, stream=stream, learning=learning, scoring=scoring)


def _signs(count: int, horizon: int, seed: int) -> Doubles:
    """Return signs (count,) that repeat those `horizon` before them with probability `STAY`."""
    random = np.random.default_rng(seed)
    rounds = math.ceil(count / horizon)
    turns = np.where(random.random((rounds, horizon)) < STAY, 1.0, -1.0)
    signs: Doubles = np.cumprod(turns, axis=0, dtype=np.float64).reshape(-1)[:count]
    return signs


def _filled(magnitudes: Doubles) -> Doubles:
    """Return magnitudes with each 0 replaced by the last one, or else the first one, above 0."""
    above = np.flatnonzero(magnitudes > 0)
    if not len(above):
        return magnitudes
    last = np.searchsorted(above, np.arange(len(magnitudes)), side="right") - 1
    return magnitudes[above[np.maximum(last, 0)]]


def share_learned(log_loss: float, base_rate: float) -> float:
    """Return what of the gap between base rate and best a log loss has closed."""
    return (base_rate - log_loss) / (base_rate - BEST)
