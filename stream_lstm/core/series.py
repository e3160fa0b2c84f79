"""One historical series as a whole: what training needs of it, made as a session makes it.

Elements come from the same maker and are scaled by the same causal scaler, run over the whole
series from its first element on. Nothing looks ahead: what is held out has no part in how the
elements before it are scaled.

The last elements are held out. Trained on are targets that come before them; scored are the
predictions that are published after an element that is held out, counted as in a session over
the whole series: after element n, for n >= window and (n - window) a multiple of stride.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt
from jax import lax

from ..config import Config
from ..errors import DataError
from ..model.runtime import on_host
from ..model.scaling import causal_scaler
from ..tables import ScalingConfig, StreamConfig

Floats = npt.NDArray[np.float32]


class Series(NamedTuple):
    """A series of N elements, of which the first `train` are trained on."""

    name: str
    scaled: Floats  # (N, F)
    positive: npt.NDArray[np.bool_]  # (N,), whether the target is
    scaler: Floats  # (1 + 2F,), the scaler's state at the end
    train: int
    digest: str  # SHA-256 of the elements, in hexadecimal

    def labels(self, horizon: int) -> npt.NDArray[np.int8]:
        """Return the target of each trained element, int8 (train,); -1 where it is held out."""
        out = np.full(self.train, -1, np.int8)
        out[: max(self.train - horizon, 0)] = self.positive[horizon : self.train]
        return out

    def due(self, stream: StreamConfig) -> npt.NDArray[np.int64]:
        """Return the n of predictions that are held out and labelled, int64 (m,)."""
        n = np.arange(stream.window, len(self.positive) - stream.horizon + 1, stream.stride)
        return n[n > self.train]

    def truth(self, stream: StreamConfig) -> npt.NDArray[np.bool_]:
        """Return the labels of `due`, bool (m,)."""
        return self.positive[self.due(stream) + stream.horizon - 1]


def make_series(name: str, elements: Floats, config: Config) -> Series:
    """Return the series of elements (N, F).

    Raises DataError, naming the series, where it is too short to be trained on and validated.
    """
    count, stream = len(elements), config.stream
    train = count - max(round(count * config.train.validation), 1)
    scaled, state = scale(elements, config.scaling)
    digest = hashlib.sha256(np.ascontiguousarray(elements).tobytes()).hexdigest()
    series = Series(name, scaled, elements[:, 0] > 0, state, train, digest)
    if train < config.learning.bptt or not len(series.due(stream)):
        raise DataError(
            f"{name} is too short: of its {count:,} elements {max(train, 0):,} are for training, "
            f"which takes bptt={config.learning.bptt} or more, and {count - train:,} are held "
            f"out, which takes one labelled prediction or more (window={stream.window}, "
            f"stride={stream.stride}); give a longer file, or lower bptt, window or stride"
        )
    return series


def scale(elements: Floats, config: ScalingConfig) -> tuple[Floats, Floats]:
    """Return (scaled elements (N, F), the scaler's state at the end (1 + 2F,))."""
    scaler = causal_scaler(elements.shape[1], config)
    with on_host():
        state, scaled = jax.jit(lambda xs: lax.scan(scaler.step, scaler.init(), xs))(elements)
    return np.asarray(scaled), np.asarray(state)


def mean_scaler(series: Iterable[Series]) -> Floats:
    """Return the scaler state (1 + 2F,) that a new stream starts from: the mean of the series'.

    Means and deviations are averaged; the count, which says how soon they give way to what the
    new stream brings, is the smallest.
    """
    states = np.stack([one.scaler for one in series])
    out: Floats = states.mean(axis=0, dtype=np.float64).astype(np.float32)
    out[0] = states[:, 0].min()
    return out
